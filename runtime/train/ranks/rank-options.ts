// The options of a run over ranks. All but the context must be equal on all ranks, since they decide frames.
import type { WeightViews } from "../../compute/training.ts";
import type { Schedule } from "../optimizers/schedule.ts";
import type { RankedModel } from "./fits.ts";
import type { RankContext } from "./rank-context.ts";

export interface RankOptions extends Omit<RankedModel, "facts"> {
  readonly context: RankContext;
  readonly schedule: Schedule;
  readonly clip: number;
  readonly frozen?: WeightViews;
  readonly agreed?: unknown;
}
