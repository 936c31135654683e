// The world that a training pod belongs to, as the operator tells it: taken in one order only, so that a pod never goes back to ranks that
// have gone on without it. What it is asked at any time: who it trains with next, and whether what it trains in is outdated. Pure.
import { AppError } from "../../crds/common.ts";
import { leftOf, type PodWords, type TrainingWorld, type WorldMember, type WorldOrder } from "../../crds/training-world.ts";

export interface Member {
  readonly job: string;
  readonly pod: string;
  readonly rank: number;
}

/** A world with a place for this pod. */
export interface Place {
  readonly epoch: number;
  readonly rank: number;
  readonly ranks: readonly WorldMember[];
}

export class Membership {
  readonly #self: Member;
  #world: TrainingWorld | undefined;
  #training = 0;
  #left: PodWords["left"];
  #wake: () => void = () => {};

  constructor(self: Member) {
    this.#self = self;
  }

  /** Takes what the operator says. Throws `WrongPod` for what is meant for another, `StaleWorld` for what another world has replaced. */
  take({ job, pod, world }: WorldOrder): void {
    const { job: ownJob, pod: ownPod } = this.#self;
    if (job !== ownJob || pod !== ownPod) throw refused("WrongPod", `this is pod ${ownPod} of job ${ownJob}, not ${pod} of ${job}`);
    if (world === undefined) return;
    const known = this.#world?.epoch ?? 0;
    if (world.epoch < known) throw refused("StaleWorld", `world ${world.epoch} is over, ${known} has taken its place`);
    if (world.epoch === known) {
      if (!sameRanks(world.ranks, this.#world?.ranks ?? [])) throw refused("StaleWorld", `world ${known} has other ranks here`);
      return;
    }
    if (world.ranks.some(({ rank }, i) => rank !== i)) throw refused("InvalidWorld", `world ${world.epoch}: ranks are not 0, 1, 2, ...`);
    const own = world.ranks.find(({ uid }) => uid === ownPod);
    if (own !== undefined && own.rank !== this.#self.rank)
      throw refused("InvalidWorld", `world ${world.epoch} has this pod as rank ${own.rank}; its certificate is of rank ${this.#self.rank}`);
    this.#world = world;
    this.#wake();
  }

  /** The newest world, where this pod has a place in it and has not left it. */
  get place(): Place | undefined {
    if (this.#world === undefined || this.#world.epoch <= (this.#left?.epoch ?? 0)) return undefined;
    const { epoch, ranks } = this.#world;
    const own = ranks.find(({ uid }) => uid === this.#self.pod);
    return own && { epoch, rank: own.rank, ranks };
  }

  /** True once there is a newer world than the one that it trains in. */
  outdated(epoch: number): boolean {
    return (this.#world?.epoch ?? 0) > epoch;
  }

  /** Resolves when another world was told of, or `wake` is called. */
  changed(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }

  wake(): void {
    this.#wake();
  }

  begins(epoch: number): void {
    this.#training = epoch;
  }

  leaves(epoch: number, code: string, message: string): void {
    this.#training = 0;
    this.#left = leftOf(epoch, code, message);
  }

  words(progress: PodWords["progress"]): PodWords {
    const { pod } = this.#self;
    return { pod, epoch: this.#world?.epoch ?? 0, training: this.#training, ...(this.#left && { left: this.#left }), progress };
  }
}

const refused = (code: string, message: string): AppError => new AppError(message, { code, operation: "taking a world" });

const sameRanks = (a: readonly WorldMember[], b: readonly WorldMember[]): boolean =>
  a.length === b.length && a.every(({ uid, ip }, i) => uid === b[i]?.uid && ip === b[i]?.ip);
