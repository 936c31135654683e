// An accumulation step: micro-batches of all ranks that pass forward and backward together, and what the passes of one rank ask of it.
import type { Stamp, Transport } from "../../net/collectives/transport.ts";
import type { Interval } from "../../placement/training/lanes.ts";
import type { ExpertReplicas } from "./expert-replicas.ts";
import type { RowDealing } from "./row-dealing.ts";

/** What ends passes between two of their parts, once the run is to stop. */
export class PassStopped extends Error {}

export interface AccumulationOptions {
  readonly transport: Transport;
  readonly stamp: Stamp;
  /** Micro-batches of each rank, counted from the accumulation step's first. */
  readonly intervals: readonly Interval[];
  /** Its first micro-batch in the step. */
  readonly first: number;
  /** Primaries have sums of accumulation steps before. */
  readonly carried: boolean;
  readonly primaries: readonly (readonly number[])[];
  readonly replicas: ExpertReplicas;
  readonly dealing: RowDealing;
  stopped(): boolean;
  /** A layer's gradients are complete at their primaries; none are before the last accumulation step. */
  readonly complete: ((layer: number) => void) | undefined;
}

export class AccumulationStep {
  readonly #options: AccumulationOptions;
  #reduced: Promise<void> = Promise.resolve();

  constructor(options: AccumulationOptions) {
    this.#options = options;
  }

  get transport(): Transport {
    return this.#options.transport;
  }

  get stamp(): Stamp {
    return this.#options.stamp;
  }

  get intervals(): readonly Interval[] {
    return this.#options.intervals;
  }

  get carried(): boolean {
    return this.#options.carried;
  }

  get primaries(): readonly (readonly number[])[] {
    return this.#options.primaries;
  }

  get replicas(): ExpertReplicas {
    return this.#options.replicas;
  }

  get dealing(): RowDealing {
    return this.#options.dealing;
  }

  /** The number, in the step, of this rank's own micro-batch of that place. */
  numberOf(own: number): number {
    return this.#options.first + this.#begin + own;
  }

  /** The place among this rank's own of a micro-batch of the accumulation step. */
  own(microBatch: number): number {
    return microBatch - this.#begin;
  }

  get #begin(): number {
    return this.intervals[this.transport.rank]?.from ?? 0;
  }

  /** Throws PassStopped where the run is to stop; only a rank without others may end by itself. */
  checkStop(): void {
    if (this.transport.ranks === 1 && this.#options.stopped()) this.stop();
  }

  /** Among ranks a stop is agreed on with a layer's counts. */
  wantsStop(): boolean {
    return this.transport.ranks > 1 && this.#options.stopped();
  }

  stop(): never {
    throw new PassStopped();
  }

  /** Sums a layer's gradients at their primaries behind what is computed next. Those of the layer before are done then: of two layers sums
   *  are held. */
  async reduce(layer: number, run: () => Promise<void>): Promise<void> {
    await this.#reduced;
    this.#reduced = run().then(() => this.#options.complete?.(layer));
    this.#reduced.catch(() => {}); // whoever awaits it gets the error
  }

  async allReduced(): Promise<void> {
    await this.#reduced;
  }
}
