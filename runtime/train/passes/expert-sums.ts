// Gradients of a layer's experts on a rank, micro-batch by micro-batch in order. The first host of an expert adds at once; the others
// hold theirs until the sum of earlier micro-batches arrives.
import { addAll } from "../../net/collectives/collectives.ts";
import type { Blocks } from "../../placement/training/blocks.ts";

export interface ExpertSumsOptions {
  readonly blocks: Blocks;
  readonly primaries: readonly number[];
  readonly rank: number;
  readonly carried: boolean;
  /** The most rows of a micro-batch whose gradient has the same bits when added in place. */
  readonly rowsInPlace: number;
  /** Zeros between micro-batches; for micro-batches with more rows. */
  readonly scratch: Float32Array;
  floatsOf(expert: number): number;
  own(expert: number): Float32Array;
}

export class ExpertSums {
  readonly #options: ExpertSumsOptions;
  readonly #partials = new Map<number, Float32Array[]>();

  constructor(options: ExpertSumsOptions) {
    this.#options = options;
  }

  /** Adds one micro-batch's gradient, which `gradient` adds to the given floats. */
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

  /** The gradients to add to the sum of earlier micro-batches, in order; none if added already. */
  partials(expert: number): readonly Float32Array[] {
    return this.#of(expert);
  }

  #of(expert: number): Float32Array[] {
    const found = this.#partials.get(expert) ?? [];
    this.#partials.set(expert, found);
    return found;
  }
}
