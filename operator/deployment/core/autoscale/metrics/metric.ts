// The interface of a metric for scaling ranks. Pure.
import type { RankSignals } from "../../world.ts";

export interface Metric {
  /** In the unit of the target; undefined where the rank does not report it. */
  readonly of: (signals: RankSignals) => number | undefined;
  /** Printed after a value; empty where the name says it. */
  readonly unit: string;
}
