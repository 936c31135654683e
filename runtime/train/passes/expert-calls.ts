// Computes the rows of a layer's experts, batched where bits do not depend on neighbouring rows. Gradients are added in micro-batch
// order.
import type { TrainableExpert, WeightViews } from "../../compute/training.ts";
import { type Unit, viewsOf } from "../model/layout.ts";
import { callsOf, concatenated, type RowBlock } from "./expert-rows.ts";
import type { ExpertSums } from "./expert-sums.ts";
import type { KeptBudget } from "./kept-budget.ts";
import { type Kept, keeping } from "./layer.ts";

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
