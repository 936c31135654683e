// The options of a run over ranks, which all of its ranks have to have alike but for the rank context: they decide frames, and so bits.
import type { WeightViews } from "../../compute/training.ts";
import type { Schedule } from "../optimizers/schedule.ts";
import type { RankedModel } from "./fits.ts";
import type { RankContext } from "./rank-context.ts";

export interface RankOptions extends Omit<RankedModel, "facts"> {
  readonly context: RankContext;
  readonly schedule: Schedule;
  readonly clip: number;
  /** Weights that are not trained, by tensor; left out where all are. */
  readonly frozen?: WeightViews;
  /** What else all ranks have to agree on. */
  readonly agreed?: unknown;
}
