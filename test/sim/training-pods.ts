// The pods of simulated training and the looks of their operator: Kubernetes is played here, late and forgetful, while which pods are a
// world is decided by the product's own rule, and taken by pods as the product takes it.
import { membersOf, type TrainingWorld, type WorldMember } from "../../crds/training-world.ts";
import type { Random } from "../../operator/planner/random.ts";
import type { PodView } from "../../operator/training/core/pod-view.ts";
import { worldOf } from "../../operator/training/core/world.ts";
import { Membership } from "../../runtime/train/pod/membership.ts";
import { RankState } from "../../runtime/train/ranks/rank-state.ts";
import type { VirtualClock } from "./clock.ts";
import type { SimPod } from "./training-net.ts";

export interface TrainingPod extends SimPod {
  readonly rank: number;
  readonly membership: Membership;
  /** The world that it was in last. */
  training: number;
  /** From when it runs. */
  readonly runsAt: number;
  /** The operator sees then that a lost pod does not answer, and that it is over. */
  silentAt: number;
  overAt: number;
  /** Its deletion was asked for. */
  deleting: boolean;
}

export const isLost = ({ dead, frozen }: TrainingPod): boolean => dead || frozen !== undefined;

const [lookMs, awayMs] = [100, 5_000];
const toldMsMost = 60;
const [startMsMost, pendingMs] = [800, 20_000];
const [silentMsMost, overMsMost] = [300, 2_000];

export interface PodPorts {
  readonly clock: VirtualClock;
  readonly random: Random;
  say(text: string): void;
  /** Another world is decided. */
  decided(world: TrainingWorld): void;
  /** A pod was told something. */
  told(pod: TrainingPod): void;
  /** A pod is to be deleted. */
  remove(pod: TrainingPod): void;
}

export class TrainingPods {
  readonly pods: TrainingPod[] = [];
  replicas: number;
  readonly minRanks: number;
  known: TrainingWorld | undefined;
  readonly #ports: PodPorts;
  readonly #reports = new Map<string, ReturnType<Membership["report"]>>();
  #names = 0;

  constructor(ports: PodPorts, replicas: number) {
    this.#ports = ports;
    this.replicas = replicas;
    this.minRanks = ports.random.next() < 0.3 ? 2 : 1;
  }

  members(world: TrainingWorld): TrainingPod[] {
    return membersOf(world).map(({ uid }) => this.pods.find(({ name }) => name === uid)!);
  }

  /** Looks again and again; now and then the operator is away. */
  begin(): void {
    this.#look();
    const { clock, random } = this.#ports;
    clock.after(random.next() < 0.02 ? awayMs : lookMs * (0.5 + random.next()), () => this.begin());
  }

  #look(): void {
    const { clock, decided } = this.#ports;
    this.#sweep();
    this.#spawn();
    const views = this.pods.map((pod) => this.#view(pod));
    const now = new Date(clock.now());
    const minRanks = Math.min(this.minRanks, this.replicas);
    const { world, stops } = worldOf({ ranks: this.replicas, minRanks, known: this.known, pods: views, reports: this.#reports, now });
    if (world !== undefined && world !== this.known) {
      this.known = world;
      const told = ({ leaving = [] }: TrainingWorld): string => (leaving.length > 0 ? `, ${leaving.map(({ uid }) => uid)} leave` : "");
      this.#ports.say(`world ${world.epoch} of ${world.ranks.map(({ uid }) => uid)}${told(world)}`);
      decided(world);
    }
    for (const pod of this.pods) this.#tell(pod, stops.has(pod.name));
  }

  /** Those that are over go, and those that nobody wants are deleted. */
  #sweep(): void {
    const now = this.#ports.clock.now();
    const members: readonly WorldMember[] = this.known === undefined ? [] : membersOf(this.known);
    const idle = ({ name, rank }: TrainingPod): boolean => rank >= this.replicas && !members.some(({ uid }) => uid === name);
    const starts = ({ runsAt }: TrainingPod): boolean => now < runsAt;
    this.pods.splice(0, this.pods.length, ...this.pods.filter((pod) => now < pod.overAt && !(idle(pod) && starts(pod))));
    for (const pod of this.pods) if (idle(pod)) this.#ports.remove(pod);
  }

  #spawn(): void {
    const { clock, random } = this.#ports;
    for (let rank = 0; rank < this.replicas; rank++) {
      if (this.pods.some((pod) => pod.rank === rank)) continue;
      const name = `p${this.#names++}`;
      const membership = new Membership({ job: "job", pod: name, rank });
      const runsAt = clock.now() + (random.next() < 0.1 ? pendingMs : startMsMost) * random.next();
      const never = Number.POSITIVE_INFINITY;
      const pod = { name, rank, membership, runsAt, rankState: new RankState(), dead: false, frozen: undefined, busy: 0, returned: false };
      this.pods.push({ ...pod, training: 0, silentAt: never, overAt: never, deleting: false });
    }
  }

  #view({ name, rank, runsAt, silentAt, overAt, deleting }: TrainingPod): PodView {
    const now = this.#ports.clock.now();
    const [running, silent] = [now >= runsAt, now >= silentAt];
    const over = now < overAt ? undefined : { end: undefined, disrupted: false, reason: "Error", message: "" };
    const made = { name, uid: name, rank, attempt: 0, hash: "", generation: 1, since: runsAt - startMsMost };
    return { ...made, deleting, running, silent, ip: "10.0.0.1", node: `node-${rank % 3}`, gates: [], waiting: undefined, over };
  }

  /** A pod that is there takes what it is told, and answers, most of the time. */
  #tell(pod: TrainingPod, stops: boolean): void {
    const { clock, random, told } = this.#ports;
    const { membership, name, runsAt } = pod;
    if (isLost(pod) || clock.now() < runsAt || random.next() < 0.2) return;
    const world = this.known;
    clock.after(random.next() * toldMsMost, () => {
      if (isLost(pod)) return;
      if ((world?.epoch ?? 0) < membership.report({ curve: [] }).epoch) return; // an answer to a later question came first
      membership.take({ job: "job", pod: name, ...(world && { world }), ...(stops && { stop: true }) });
      this.#reports.set(name, membership.report({ curve: [] }, 1));
      told(pod);
    });
  }

  /** From now on it is lost, which the operator sees in its time. */
  lose(pod: TrainingPod): void {
    const { clock, random } = this.#ports;
    pod.silentAt = clock.now() + random.next() * silentMsMost;
    if (pod.dead) pod.overAt = pod.silentAt + random.next() * overMsMost;
  }

  found(pod: TrainingPod): void {
    pod.silentAt = Number.POSITIVE_INFINITY;
  }

  /** It has ended by itself. */
  ended(pod: TrainingPod): void {
    pod.dead = true;
    pod.overAt = this.#ports.clock.now() + this.#ports.random.next() * silentMsMost;
  }
}
