// The links of one deployment, one per worker and gateway pod. It pushes changed memberships, and the committed plan to each started
// process.
import { ports } from "../../../crds/common.ts";
import type { PlacementPlan } from "../../../crds/plan.ts";
import type { GatewayPod, GatewayView, World } from "../../deployment/ports.ts";
import type { Identity } from "../../kube/ask-pod.ts";
import { workerServerName } from "../../pki/names.ts";
import { lostAfterMs } from "../members.ts";
import type { Observed } from "../observed.ts";
import type { Link, LinkTarget, Member, Membership, OpenLink, PlanMember } from "../ports.ts";

interface Entry {
  readonly link: Link;
  readonly address: string;
}

interface Wanted {
  readonly uid: string;
  readonly ip: string;
  readonly serverName: string;
  readonly kind: "worker" | "gateway";
}

/** No leader comes that far; a pod that says so keeps nobody from numbering on. */
const versionsMax = 2 ** 52;
/** Leaders' terms are below this. */
export const termsMax = 1024;

/** Two that lead at once make no equal versions, of which a pod would keep the first whatever is in it. */
function versionAbove(version: number, term: number): number {
  const next = version + 1;
  return next + ((((term - next) % termsMax) + termsMax) % termsMax);
}

type LinkHandlers = Pick<LinkTarget, "onChange" | "onLoad" | "quota">;

export interface Changes {
  readonly joined: readonly { readonly rank: number; readonly bootId: string }[];
  readonly lost: readonly number[];
}

export class Links {
  readonly #open: OpenLink;
  readonly #on: LinkHandlers;
  readonly #term: number;
  readonly #workers = new Map<string, Entry>();
  readonly #gateways = new Map<string, Entry>();
  #version = 0;
  #now = 0;
  #identity: Identity | undefined;
  #lastMembers = "";
  #pushedAt = Number.NEGATIVE_INFINITY;
  #waiting:
    | { readonly members: readonly Member[]; readonly beside: Omit<Membership, "version" | "members">; readonly text: string }
    | undefined;
  /** One object for all links, which encode it once. */
  #membership: Membership | undefined;
  readonly #bootIds = new Map<number, string>();

  constructor(open: OpenLink, on: LinkHandlers, term: number) {
    this.#open = open;
    this.#on = on;
    this.#term = term;
  }

  worker(podUid: string): Link | undefined {
    return this.#workers.get(podUid)?.link;
  }

  all(): Link[] {
    return [...this.#workers.values(), ...this.#gateways.values()].map(({ link }) => link);
  }

  gateways(pods: readonly GatewayPod[], now: number): GatewayView[] {
    const { version = 0, holdMs = 0 } = this.#membership ?? {};
    return pods.map(({ name, uid }) => {
      const link = this.#gateways.get(uid)?.link;
      const status = link?.downSince === undefined ? link?.status : undefined;
      const { idleSince = now, wantsRanks = false, unasked = false } = status?.front ?? {};
      const idleMs = status?.front && Math.max(0, now - idleSince);
      const holds = idleMs !== undefined && holdMs > 0 && (status?.membershipVersion ?? 0) >= version;
      return { name, idleMs, wantsRanks, unasked, holds };
    });
  }

  /** Opens and closes links as pods come and go, and pushes `plan` to new gateways. */
  sync(world: World, identity: Identity, plan: PlacementPlan | undefined, now: number): void {
    const { ref } = world;
    const wanted = world.workers.flatMap((pod) =>
      pod.ip && !pod.lost ? [{ uid: pod.uid, ip: pod.ip, serverName: workerServerName(ref, pod.rank), kind: "worker" as const }] : [],
    );
    const gateways = world.gateways.flatMap((pod) =>
      pod.ip ? [{ uid: pod.uid, ip: pod.ip, serverName: `gateway.${ref.name}.${ref.namespace}.enodia`, kind: "gateway" as const }] : [],
    );
    const target = { deploymentUid: world.uid, identity, ...this.#on };
    // `tell` pushes to workers once their model is known.
    this.#reconcile(this.#workers, wanted, target);
    for (const link of this.#reconcile(this.#gateways, gateways, target)) if (plan) link.pushPlan(plan);
    if (this.#identity && this.#identity !== identity) for (const link of this.all()) link.renew(identity);
    this.#identity = identity;
    this.#now = now;
  }

  #reconcile(
    entries: Map<string, Entry>,
    wanted: readonly Wanted[],
    target: Pick<LinkTarget, "deploymentUid" | "identity"> & LinkHandlers,
  ): Link[] {
    const byUid = new Map(wanted.map((pod) => [pod.uid, pod]));
    for (const [uid, entry] of entries) {
      const still = byUid.get(uid);
      if (still && `${still.ip}:${ports.grpc}` === entry.address) continue;
      entry.link.close();
      entries.delete(uid);
    }
    const opened: Link[] = [];
    for (const { uid, ip, serverName, kind } of wanted) {
      if (entries.has(uid)) continue;
      const address = `${ip}:${ports.grpc}`;
      const link = this.#open({ ...target, address, serverName, kind, podUid: uid });
      entries.set(uid, { link, address });
      opened.push(link);
      if (this.#membership) link.push(this.#membership);
    }
    return opened;
  }

  /** Pushes membership and settings that differ from the last ones, at once or within `holdMs`. */
  setMembers(members: readonly Member[], { holdMs = 0 }: Omit<Membership, "version" | "members">): void {
    const text = JSON.stringify([members, holdMs]);
    const reported = Math.max(
      0,
      ...this.all()
        .map((link) => link.status?.membershipVersion ?? 0)
        .filter((version) => version < versionsMax),
    );
    this.#waiting = undefined;
    if (text === this.#lastMembers && reported <= this.#version) return;
    const beside = holdMs > 0 ? { holdMs } : {};
    this.#waiting = { members, beside, text };
    const early = this.#now - this.#pushedAt < spacingMs(members.length);
    const { members: before = [], holdMs: heldMs = 0 } = this.#membership ?? {};
    if (early && reported <= this.#version && holdMs === heldMs && mayWait(before, members)) return;
    this.#pushMembers(reported);
  }

  #pushMembers(reported = 0): void {
    if (!this.#waiting) return;
    const { members, beside, text } = this.#waiting;
    this.#waiting = undefined;
    this.#lastMembers = text;
    this.#pushedAt = this.#now;
    // Pods ignore versions older than theirs, so a new leader continues from its clock or from the highest reported version.
    this.#version = versionAbove(Math.max(this.#version, reported, this.#version === 0 ? this.#now : 0), this.#term);
    this.#membership = { version: this.#version, members, ...beside };
    for (const link of this.all()) link.push(this.#membership);
  }

  /** Records the processes that a plan begins with, which the rollout calls itself. Any other process joins once it is there. */
  planBegins(members: ReadonlyMap<number, PlanMember>): void {
    this.#pushMembers();
    this.#bootIds.clear();
    for (const [rank, { bootId }] of members) this.#bootIds.set(rank, bootId);
  }

  /** Pushes `plan` to started worker processes; a rank without a process for the grace period counts as lost. */
  tell({ views, usableAt, now }: Pick<Observed, "views" | "usableAt" | "now">, plan: PlacementPlan | undefined): Changes {
    const joined: { rank: number; bootId: string }[] = [];
    const lost: number[] = [];
    for (const { rank, usable, link, report } of views) {
      const bootId = report?.description?.bootId;
      if (!usable || bootId === undefined || this.#bootIds.get(rank) === bootId) continue;
      this.#bootIds.set(rank, bootId);
      if (plan) link?.pushPlan(plan);
      joined.push({ rank, bootId });
    }
    const usable = new Set(views.flatMap((view) => (view.usable ? [view.rank] : [])));
    for (const rank of this.#bootIds.keys()) {
      if (usable.has(rank) || now - (usableAt.get(rank) ?? 0) <= lostAfterMs) continue;
      this.#bootIds.delete(rank);
      lost.push(rank);
    }
    return { joined, lost };
  }

  close(): void {
    for (const link of this.all()) link.close();
    this.#workers.clear();
    this.#gateways.clear();
  }
}

const bytesPerMember = 165;
/** The network budget of delayed memberships, and a tenth of a core to encrypt them. */
const bytesPerSecondMost = 10 * 2 ** 20;
const waitMsMost = 2_000;

/** The delay of the next membership in ms: a second for 256 ranks. */
export const spacingMs = (members: number): number =>
  Math.min(waitMsMost, Math.floor((members ** 2 * bytesPerMember * 1000) / bytesPerSecondMost));

/** True where only new or newly serving members differ, so that no call fails meanwhile. */
export function mayWait(before: readonly Member[], now: readonly Member[]): boolean {
  const next = new Map(now.map((member) => [member.rank, member]));
  return before.every((old) => {
    const member = next.get(old.rank);
    if (member?.podUid !== old.podUid || member.bootId !== old.bootId || member.address !== old.address) return false;
    return member.state === old.state || member.state === "active";
  });
}

/** The most links of all deployments that connect at once. */
export const connectsMax = 128;

/** FIFO, for connects: DECISIONS.md 5. */
export class Semaphore {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(most: number) {
    this.#free = most;
  }

  /** Runs `begin` once a slot is free. Call `leave` once afterwards. */
  enter(begin: () => void): void {
    if (this.#free === 0) return void this.#waiting.push(begin);
    this.#free -= 1;
    begin();
  }

  leave(): void {
    const next = this.#waiting.shift();
    if (next) next();
    else this.#free += 1;
  }
}
