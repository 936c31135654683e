// The transitions of sampled tokens from layer to layer, summed over all ranks and windows, old ones fading: affinity policies plan
// with them. Sampling is sparse, so nothing is known before a good number of tokens was followed. Pure.
import { type Transitions, transitionCellsMax } from "../../../crds/telemetry.ts";

/** A window's counts weigh this much of the next one's: half is forgotten after 34 windows. */
const fading = 0.98;
/** Pairs per expert and layer, on average, below which a row says little of where its tokens go. */
const pairsPerExpert = 32;
/** A plan is worth another try when this part of what is known is new. */
const newPart = 0.5;

/** The transitions of one deployment; 8 bytes per (layer, expert, expert). */
export class TransitionCounts {
  /** Followed pairs that the sums stand for, faded ones less. */
  pairs = 0;
  readonly #sums: Float64Array;
  readonly #enough: number;
  #since = 0;

  /** A model too large to be followed has no counts. */
  constructor(layers: number, experts: number) {
    const cells = Math.max(0, layers - 1) * experts * experts;
    this.#sums = new Float64Array(cells <= transitionCellsMax ? cells : 0);
    this.#enough = Math.max(1, layers - 1) * experts * pairsPerExpert;
  }

  add({ cells, counts }: Transitions): void {
    cells.forEach((cell, n) => {
      if (cell >= this.#sums.length) return;
      const count = counts[n] as number;
      this.#sums[cell] = (this.#sums[cell] as number) + count;
      this.pairs += count;
      this.#since += count;
    });
  }

  /** Lets what is known fade a little, as a window has ended. */
  fade(): void {
    for (let i = 0; i < this.#sums.length; i++) this.#sums[i] = (this.#sums[i] as number) * fading;
    this.pairs *= fading;
  }

  /** [layers-1][experts][experts]; undefined while too few tokens were followed. Not a copy. */
  known(): Float64Array | undefined {
    return this.pairs >= this.#enough ? this.#sums : undefined;
  }

  /** True when enough is known, and much of it is newer than the last plan. */
  get fresh(): boolean {
    return this.pairs >= this.#enough && this.#since >= Math.max(this.#enough, newPart * this.pairs);
  }

  /** Takes note that a plan was made of what is known. */
  used(): void {
    this.#since = 0;
  }
}
