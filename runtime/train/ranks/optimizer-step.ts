// The update of a step whose gradients are complete. A rank keeps it until it is applied: by the world that made the gradients, or by the
// next one where a rank was lost in between (DECISIONS.md 1).
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
  /** Rows that each layer's experts had. */
  readonly rows: readonly ArrayLike<number>[];
  readonly options: RankOptions;
}

export class OptimizerStep implements PendingUpdate {
  readonly #of: UpdateOf;

  constructor(of: UpdateOf) {
    this.#of = of;
  }

  /** Biases have no gradient, so that they may be moved before the optimizer's update. */
  async apply(squares: Float64Array): Promise<void> {
    const { step, stores, balancing, rows, options } = this.#of;
    balancing.moveBiases(rows);
    stores.keepDense();
    const facts = factsOf(options, step, squares);
    for (const store of stores.all) await store.update(options.optimizer.values, facts);
  }
}

/** The norm of all gradients, out of their squares. */
export const normIn = (squares: Float64Array): number => Math.sqrt(squares.reduce((sum, square) => sum + square, 0));

/** What the numbers of a step follow from, by the squares that all ranks have. */
function factsOf(
  { schedule, clip }: Pick<RankOptions, "schedule" | "clip">,
  step: number,
  squares: Float64Array,
): Omit<StepFacts, "decays"> {
  return { step, rate: rateOf(schedule, step), clip: Math.min(1, clip / (normIn(squares) + 1e-6)) };
}
