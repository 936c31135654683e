// The links of one deployment: one per worker and gateway pod that has an address, opened and closed as pods come and go;
// membership is pushed to all of them when it changes. Shell.
import { ports } from "../../../crds/common.ts";
import type { PlacementPlan } from "../../../crds/plan.ts";
import { type Identity, type World, workerServerName } from "../../deployment/ports.ts";
import type { Link, Member, Membership, OpenLink } from "../ports.ts";

interface Entry {
  readonly link: Link;
  readonly address: string;
}

export class Links {
  private readonly open: OpenLink;
  private readonly onChange: () => void;
  private readonly workers = new Map<string, Entry>();
  private readonly gateways = new Map<string, Entry>();
  private version = 0;
  private now = 0;
  private identity: Identity | undefined;
  private lastMembers = "";
  private members: readonly Member[] = [];
  private sampleTransitions = false;
  private plan: PlacementPlan | undefined;

  constructor(open: OpenLink, onChange: () => void) {
    this.open = open;
    this.onChange = onChange;
  }

  worker(podUid: string): Link | undefined {
    return this.workers.get(podUid)?.link;
  }

  sync(world: World, identity: Identity, now: number): void {
    const { ref } = world;
    const wanted = world.workers.flatMap((pod) =>
      pod.ip && !pod.lost ? [{ uid: pod.uid, ip: pod.ip, serverName: workerServerName(ref, pod.rank), kind: "worker" as const }] : [],
    );
    this.reconcile(this.workers, wanted, world, identity);
    const gateways = world.gateways.flatMap((pod) =>
      pod.ip ? [{ uid: pod.uid, ip: pod.ip, serverName: `gateway.${ref.name}.${ref.namespace}.enodia`, kind: "gateway" as const }] : [],
    );
    this.reconcile(this.gateways, gateways, world, identity);
    if (this.identity && this.identity !== identity) for (const { link } of this.all()) link.renew(identity);
    this.identity = identity;
    this.now = now;
  }

  private reconcile(
    entries: Map<string, Entry>,
    wanted: readonly { uid: string; ip: string; serverName: string; kind: "worker" | "gateway" }[],
    world: World,
    identity: Identity,
  ): void {
    for (const [uid, entry] of entries) {
      const still = wanted.find((pod) => pod.uid === uid);
      if (still && `${still.ip}:${ports.grpc}` === entry.address) continue;
      entry.link.close();
      entries.delete(uid);
    }
    for (const { uid, ip, serverName, kind } of wanted) {
      if (entries.has(uid)) continue;
      const address = `${ip}:${ports.grpc}`;
      const link = this.open({ address, serverName, deploymentUid: world.uid, kind, podUid: uid, identity, onChange: this.onChange });
      entries.set(uid, { link, address });
      if (this.lastMembers !== "") link.push(this.membership());
      // Workers are told by boots.ts, once it is known what they run.
      if (this.plan && kind === "gateway") link.pushPlan(this.plan);
    }
  }

  /** Pushes membership, and whether workers are to follow tokens from layer to layer, if they differ from the last. */
  setMembers(members: readonly Member[], sampleTransitions: boolean): void {
    const text = JSON.stringify([members, sampleTransitions]);
    const reported = Math.max(0, ...this.all().map(({ link }) => link.status?.membershipVersion ?? 0));
    if (text === this.lastMembers && reported <= this.version) return;
    this.lastMembers = text;
    this.members = members;
    this.sampleTransitions = sampleTransitions;
    // Pods ignore what is older than what they have: a new leader goes on from its clock, or from a leader whose clock was ahead.
    this.version = Math.max(this.version, reported, this.version === 0 ? this.now : 0) + 1;
    for (const { link } of this.all()) link.push(this.membership());
  }

  private membership(): Membership {
    return { version: this.version, members: this.members, sampleTransitions: this.sampleTransitions };
  }

  pushPlan(plan: PlacementPlan): void {
    this.plan = plan;
    for (const { link } of this.all()) link.pushPlan(plan);
  }

  /** The world runs another model: pods that come are not told the old plan. */
  forgetPlan(): void {
    this.plan = undefined;
  }

  private all(): Entry[] {
    return [...this.workers.values(), ...this.gateways.values()];
  }

  close(): void {
    for (const { link } of this.all()) link.close();
    this.workers.clear();
    this.gateways.clear();
  }
}
