// Gradients of a layer's experts that a rank computes, micro-batch by micro-batch in their order. The first of an expert's hosts adds each to those
// before at once; the others keep theirs until the sum of the micro-batches before comes to them.
import { addAll } from "../../net/collectives/collectives.ts";
import type { Blocks } from "../../placement/training/blocks.ts";

export interface ExpertSumsOptions {
  readonly blocks: Blocks;
  /** Of the layer's experts. */
  readonly primaries: readonly number[];
  readonly rank: number;
  /** Primaries have sums of micro-batches before these. */
  readonly carried: boolean;
  /** Of a micro-batch, at most, that have the same bits in place. */
  readonly rowsInPlace: number;
  /** Zeros, and zeros again between micro-batches, for micro-batches of more rows. */
  readonly scratch: Float32Array;
  floatsOf(expert: number): number;
  /** The gradient of an expert that has its primary here. */
  own(expert: number): Float32Array;
}

export class ExpertSums {
  readonly #options: ExpertSumsOptions;
  readonly #partials = new Map<number, Float32Array[]>();

  constructor(options: ExpertSumsOptions) {
    this.#options = options;
  }

  /** Adds the gradient of one micro-batch of so many rows, which `gradient` adds to the floats that it is given. */
  async add(expert: number, rows: number, gradient: (sum: Float32Array) => Promise<void>): Promise<void> {
    const { primaries, rank, carried, rowsInPlace, scratch, own, floatsOf } = this.#options;
    const primary = primaries[expert] === rank;
    const first = this.#options.blocks[expert]?.[0]?.host === rank;
    const partials = this.#of(expert);
    if (!first || !(primary || !carried)) {
      const sum = new Float32Array(floatsOf(expert));
      partials.push(sum);
      return gradient(sum);
    }
    if (!primary && partials.length === 0) partials.push(new Float32Array(floatsOf(expert)));
    const whole = primary ? own(expert) : (partials[0] as Float32Array);
    if (rows <= rowsInPlace) return gradient(whole);
    const sum = scratch.subarray(0, floatsOf(expert));
    await gradient(sum);
    addAll(whole, [sum]);
    sum.fill(0);
  }

  /** What is to be added to the sum of the micro-batches before, in order; none of an expert whose gradient has it already. */
  partials(expert: number): readonly Float32Array[] {
    return this.#of(expert);
  }

  #of(expert: number): Float32Array[] {
    const found = this.#partials.get(expert) ?? [];
    this.#partials.set(expert, found);
    return found;
  }
}
