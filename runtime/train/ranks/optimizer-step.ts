// The update of a step whose gradients are complete. If a rank is lost before the update, the next world applies it (DECISIONS.md 1).
import type { StepFacts } from "../optimizers/optimizer.ts";
import { rateOf } from "../optimizers/schedule.ts";
import type { Balancing } from "../passes/balancing.ts";
import type { RankOptions } from "./rank-options.ts";
import type { PendingUpdate } from "./rank-state.ts";
import type { RankStores } from "./rank-stores.ts";

interface UpdateOf {
  readonly step: number;
  readonly stores: RankStores;
  readonly balancing: Balancing;
  readonly rows: readonly ArrayLike<number>[];
  readonly options: RankOptions;
}

export class OptimizerStep implements PendingUpdate {
  readonly #of: UpdateOf;

  constructor(of: UpdateOf) {
    this.#of = of;
  }

  /** Biases have no gradient, so they move before the optimizer's update. */
  async apply(squares: Float64Array): Promise<void> {
    const { step, stores, balancing, rows, options } = this.#of;
    balancing.moveBiases(rows);
    stores.keepDense();
    const facts = factsOf(options, step, squares);
    for (const store of stores.all) await store.update(options.optimizer.values, facts);
  }
}

/** The norm of all gradients from their squares. */
export const normIn = (squares: Float64Array): number => Math.sqrt(squares.reduce((sum, square) => sum + square, 0));

function factsOf(
  { schedule, clip }: Pick<RankOptions, "schedule" | "clip">,
  step: number,
  squares: Float64Array,
): Omit<StepFacts, "decays"> {
  return { step, rate: rateOf(schedule, step), clip: Math.min(1, clip / (normIn(squares) + 1e-6)) };
}
