// An accumulation step: the micro-batches of all ranks that pass forward and backward together.
import type { Stamp, Transport } from "../../net/collectives/transport.ts";
import type { Interval } from "../../placement/training/micro-batches.ts";
import type { ExpertReplicas } from "./expert-replicas.ts";
import type { RowDealing } from "./row-dealing.ts";

export class PassStopped extends Error {}

export interface AccumulationOptions {
  readonly transport: Transport;
  readonly stamp: Stamp;
  /** Micro-batches of each rank, relative to `first`. */
  readonly intervals: readonly Interval[];
  readonly first: number;
  /** Primaries have sums of earlier accumulation steps. */
  readonly carried: boolean;
  readonly primaries: readonly (readonly number[])[];
  readonly replicas: ExpertReplicas;
  readonly dealing: RowDealing;
  stopped(): boolean;
  /** Called when a layer's gradients are complete at their primaries, in the last accumulation step. */
  readonly complete: ((layer: number) => void) | undefined;
}

export class AccumulationStep {
  readonly transport: Transport;
  readonly stamp: Stamp;
  readonly intervals: readonly Interval[];
  readonly carried: boolean;
  readonly primaries: readonly (readonly number[])[];
  readonly replicas: ExpertReplicas;
  readonly dealing: RowDealing;
  readonly #options: AccumulationOptions;
  #reduced: Promise<void> = Promise.resolve();

  constructor(options: AccumulationOptions) {
    this.#options = options;
    this.transport = options.transport;
    this.stamp = options.stamp;
    this.intervals = options.intervals;
    this.carried = options.carried;
    this.primaries = options.primaries;
    this.replicas = options.replicas;
    this.dealing = options.dealing;
  }

  numberOf(own: number): number {
    return this.#options.first + this.#begin + own;
  }

  own(microBatch: number): number {
    return microBatch - this.#begin;
  }

  get #begin(): number {
    return this.intervals[this.transport.rank]?.from ?? 0;
  }

  /** Throws PassStopped where the run is to stop; only a single rank may stop by itself. */
  checkStop(): void {
    if (this.transport.ranks === 1 && this.#options.stopped()) this.stop();
  }

  /** Several ranks agree on a stop with a layer's counts. */
  wantsStop(): boolean {
    return this.transport.ranks > 1 && this.#options.stopped();
  }

  stop(): never {
    throw new PassStopped();
  }

  /** Starts to sum a layer's gradients at their primaries, after the layer before is done: at most two layers of sums are held. */
  async reduce(layer: number, run: () => Promise<void>): Promise<void> {
    await this.#reduced;
    this.#reduced = run().then(() => this.#options.complete?.(layer));
    this.#reduced.catch(() => {});
  }

  async allReduced(): Promise<void> {
    await this.#reduced;
  }
}
