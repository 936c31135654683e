// The world of a training pod as the operator announces it. Worlds only move forward, so that a pod never returns to ranks that have
// gone on without it.
import { AppError } from "../../../crds/common.ts";
import {
  leftOf,
  membersOf,
  type PodReport,
  ranksMax,
  type TrainingWorld,
  type WorldMember,
  type WorldOrder,
} from "../../../crds/training-world.ts";

export interface Member {
  readonly job: string;
  readonly pod: string;
  readonly rank: number;
}

export interface Place {
  readonly epoch: number;
  /** This pod's index among the members; one at or past `ranks` leaves. */
  readonly rank: number;
  readonly ranks: number;
  readonly members: readonly WorldMember[];
}

export const leaves = ({ rank, ranks }: Pick<Place, "rank" | "ranks">): boolean => rank >= ranks;

export class Membership {
  readonly #self: Member;
  readonly #watchers = new Set<() => void>();
  #world: TrainingWorld | undefined;
  #training = 0;
  #left: PodReport["left"];
  #leaving = false;
  #stop = false;

  constructor(self: Member) {
    this.#self = self;
  }

  /** Takes an order. Throws `WrongPod` for another pod's, `StaleWorld` for an outdated one. */
  take({ job, pod, world, stop }: WorldOrder): void {
    const { job: ownJob, pod: ownPod } = this.#self;
    if (job !== ownJob || pod !== ownPod) throw refused("WrongPod", `this is pod ${ownPod} of job ${ownJob}, not ${pod} of ${job}`);
    if (world !== undefined && !this.#knows(world)) {
      this.#check(world);
      this.#world = world;
      this.wake();
    }
    if (stop !== true || this.#stop) return;
    this.#stop = true;
    this.wake();
  }

  #knows(world: TrainingWorld): boolean {
    const known = this.#world?.epoch ?? 0;
    if (world.epoch < known) throw refused("StaleWorld", `world ${world.epoch} is over, ${known} has taken its place`);
    if (world.epoch > known) return false;
    if (this.#world === undefined || !sameMembers(world, this.#world)) throw refused("StaleWorld", `world ${known} has other ranks here`);
    return true;
  }

  #check(world: TrainingWorld): void {
    const { epoch, ranks } = world;
    const members = membersOf(world);
    if (ranks.some(({ rank }, i) => i > 0 && rank <= (ranks[i - 1] as WorldMember).rank))
      throw refused("InvalidWorld", `world ${epoch}: its ranks do not ascend`);
    if (new Set(members.map(({ rank }) => rank)).size < members.length)
      throw refused("InvalidWorld", `world ${epoch}: two of its pods have one rank`);
    const own = members.find(({ uid }) => uid === this.#self.pod);
    if (own !== undefined && own.rank !== this.#self.rank)
      throw refused("InvalidWorld", `world ${epoch} has this pod as rank ${own.rank}; its certificate is of rank ${this.#self.rank}`);
  }

  /** The newest world in which this pod has a place that it has not left. */
  get place(): Place | undefined {
    if (this.#world === undefined || this.#world.epoch <= (this.#left?.epoch ?? 0)) return undefined;
    const { epoch, ranks } = this.#world;
    const members = membersOf(this.#world);
    const rank = members.findIndex(({ uid }) => uid === this.#self.pod);
    return rank < 0 ? undefined : { epoch, rank, ranks: ranks.length, members };
  }

  placeAfter(epoch: number): Place | undefined {
    const { place } = this;
    return place !== undefined && place.epoch > epoch ? place : undefined;
  }

  outdated(epoch: number): boolean {
    return (this.#world?.epoch ?? 0) > epoch;
  }

  /** The pod is to end, and no world takes its state. */
  get stop(): boolean {
    return this.#stop;
  }

  leave(): void {
    this.#leaving = true;
  }

  /** Calls back on every change and `wake`, until the returned function is called. */
  watch(changed: () => void): () => void {
    this.#watchers.add(changed);
    return () => void this.#watchers.delete(changed);
  }

  changed(): Promise<void> {
    return new Promise((resolve) => {
      const unwatch = this.watch(() => {
        unwatch();
        resolve();
      });
    });
  }

  wake(): void {
    for (const changed of [...this.#watchers]) changed();
  }

  begins(epoch: number): void {
    this.#training = epoch;
  }

  leaves(epoch: number, code: string, message: string): void {
    this.#training = 0;
    this.#left = leftOf(epoch, code, message);
  }

  report(progress: PodReport["progress"], leastRanks?: number): PodReport {
    const { pod } = this.#self;
    const known = { pod, epoch: this.#world?.epoch ?? 0, training: this.#training, ...(this.#left && { left: this.#left }) };
    const least = leastRanks !== undefined && { leastRanks: Math.min(ranksMax, leastRanks) };
    return { ...known, ...(this.#leaving && { leaving: true }), ...least, progress };
  }
}

const refused = (code: string, message: string): AppError => new AppError(message, { code, operation: "taking a world" });

function sameMembers(one: TrainingWorld, other: TrainingWorld): boolean {
  const [a, b] = [membersOf(one), membersOf(other)];
  return (
    one.ranks.length === other.ranks.length && a.length === b.length && a.every(({ uid, ip }, i) => uid === b[i]?.uid && ip === b[i]?.ip)
  );
}
