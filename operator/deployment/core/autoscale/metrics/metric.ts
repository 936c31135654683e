// A metric that ranks can be scaled by, as a type. Pure.
import type { RankSignals } from "../../world.ts";

export interface Metric {
  /** The figure of one rank, in the unit of the target; undefined where the rank does not report it. */
  readonly of: (signals: RankSignals) => number | undefined;
  /** Written behind a value; empty where the name says it. */
  readonly unit: string;
}
