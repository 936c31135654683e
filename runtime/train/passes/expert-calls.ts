// Computes the rows of a layer's experts, batched where bits do not depend on neighbouring rows. Gradients are added in micro-batch
// order.
import type { TrainableExpert, WeightViews } from "../../compute/training.ts";
import { addAll } from "../../net/collectives/collectives.ts";
import type { Blocks } from "../../placement/training/blocks.ts";
import { type Unit, viewsOf } from "../model/layout.ts";
import { callsOf, concatenated, type RowBlock } from "./expert-rows.ts";
import { type Kept, type KeptBudget, keeping } from "./layer.ts";

interface ForwardPiece {
  readonly block: RowBlock;
  x(): Float32Array;
  take(y: Float32Array): void;
}

interface BackwardPiece {
  readonly block: RowBlock;
  x(): Float32Array;
  dOut(): Float32Array;
  gates(): Float32Array;
  take(dx: Float32Array, dGates: Float32Array): void;
}

export interface MicroBatchGradient {
  readonly block: RowBlock;
  add(sum: Float32Array): Promise<void>;
}

interface ExpertCallsOptions {
  readonly expert: TrainableExpert;
  readonly width: number;
  readonly budget: KeptBudget | undefined;
  /** Called before each call; throws where the pass is to end. */
  ask(): void;
  unit(expert: number): Unit;
  weights(expert: number): WeightViews;
}

export class ExpertCalls {
  readonly #options: ExpertCallsOptions;
  /** What calls stored, by their first block: backward makes the same calls. */
  readonly #kept = new Map<RowBlock, Kept>();

  constructor(options: ExpertCallsOptions) {
    this.#options = options;
  }

  /** Pieces of one expert must be adjacent. */
  async forward(pieces: readonly ForwardPiece[]): Promise<void> {
    const { expert, width, budget, ask, weights } = this.#options;
    for (const call of callsOf(pieces, expert.rowsAtOnce)) {
      ask();
      const first = call[0]?.block as RowBlock;
      const x = concatenated(call.map((piece) => piece.x()));
      const asked = { budget, rows: x.length / width, keeps: expert.keeps };
      const { found, kept } = await keeping(asked, (into) => expert.forward(x, weights(first.expert), into));
      if (kept) this.#kept.set(first, kept);
      for (const { piece, data } of cut(call, width, found)) piece.take(data);
    }
  }

  /** Pieces of one expert must be adjacent. The caller adds each result, which is large; the next call begins only when asked for. */
  async *backward(pieces: readonly BackwardPiece[]): AsyncGenerator<MicroBatchGradient[]> {
    const { expert, width, budget, ask, unit, weights } = this.#options;
    for (const call of callsOf(pieces, expert.rowsAtOnce)) {
      ask();
      const first = call[0]?.block as RowBlock;
      const kept = this.#kept.get(first);
      const joined = (of: (piece: BackwardPiece) => Float32Array): Float32Array => concatenated(call.map(of));
      const given = { x: joined(({ x }) => x()), dOut: joined(({ dOut }) => dOut()), gates: joined(({ gates }) => gates()) };
      const { dx, dGates, addTo } = await expert.backward({ ...given, kept: kept?.values, weights: weights(first.expert) });
      this.#kept.delete(first);
      if (kept) budget?.give(kept.floats);
      const gradients: MicroBatchGradient[] = [];
      for (const { piece, data, from } of cut(call, 1, dGates)) {
        const { block, take } = piece;
        const to = from + block.rows;
        take(dx.subarray(from * width, to * width), data);
        gradients.push({ block, add: (sum) => addTo(viewsOf(sum, unit(block.expert)), from, to) });
      }
      yield gradients;
    }
  }
}

export async function allOf(calls: AsyncIterable<MicroBatchGradient[]>): Promise<MicroBatchGradient[]> {
  const all: MicroBatchGradient[] = [];
  for await (const gradients of calls) all.push(...gradients);
  return all;
}

export async function summed(sums: ExpertSums, gradients: readonly MicroBatchGradient[]): Promise<void> {
  for (const { block, add } of gradients.toSorted((a, b) => a.block.microBatch - b.block.microBatch))
    await sums.add(block.expert, block.rows, add);
}

export const byExpert = (a: { readonly block: RowBlock }, b: { readonly block: RowBlock }): number =>
  a.block.expert - b.block.expert || a.block.microBatch - b.block.microBatch;

function* cut<T extends { readonly block: RowBlock }>(call: readonly T[], width: number, all: Float32Array) {
  let from = 0;
  for (const piece of call) {
    const to = from + piece.block.rows;
    yield { piece, from, data: all.subarray(from * width, to * width) };
    from = to;
  }
}

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

/**
 * Gradients of a layer's experts, micro-batch by micro-batch in order. The first host of an expert adds at once; the others hold theirs
 * until the sum of earlier micro-batches arrives.
 */
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
    const partials = this.partials(expert);
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
  partials(expert: number): Float32Array[] {
    const found = this.#partials.get(expert) ?? [];
    this.#partials.set(expert, found);
    return found;
  }
}
