// What one process remembers of a deployment; a new leader finds it again (DECISIONS.md 9). Pure.
import type { Watched } from "./canary.ts";
import type { RefusedStart } from "./snapshot.ts";

export interface RecommendedRanks {
  readonly at: number;
  readonly ranks: number;
}

/** The autoscaler's recommendations, oldest first and without a long gap. */
export type History = readonly RecommendedRanks[];

/** A refused write, not retried before `untilMs` of the monotonic clock. */
export interface Refused {
  readonly name: string;
  readonly message: string;
  readonly untilMs: number;
}

export interface Memory {
  readonly jobRefused: Refused | undefined;
  readonly greenRefused: Refused | undefined;
  /** The green deployment that found no capacity, until the spec changes. */
  readonly greenNoCapacity: string | undefined;
  /** The refusal of an extra pod. */
  readonly surgeRefused: Refused | undefined;
  /** What ranks found that were taken out; a new leader lets them look again. */
  readonly refusedStart: RefusedStart | undefined;
  /** Why no pod could be created in the last pass; empty when all were. */
  readonly createError: string;
  /** Refused dry runs by template hash. Acceptances are not remembered, since a serving pod may be deleted for them. */
  readonly dryRuns: ReadonlyMap<string, { readonly atMs: number; readonly problem: string }>;
  /** Totals when the canaries, or a green deployment, began to bake. */
  readonly canaryBake: Watched | undefined;
  readonly greenBake: Watched | undefined;
  /** Since when stopping ranks wait for gateways. */
  readonly gatewaysSinceMs: number | undefined;
  /** When the grace periods of terminating pods are over, by uid and on the monotonic clock. */
  readonly goneAtMs: ReadonlyMap<string, number>;
  readonly autoscaleHistory: History;
  /** The autoscaler is about to set 0, or somebody else has. */
  readonly zero: "going" | "others" | undefined;
}

export const noMemory: Memory = {
  jobRefused: undefined,
  greenRefused: undefined,
  greenNoCapacity: undefined,
  surgeRefused: undefined,
  refusedStart: undefined,
  createError: "",
  dryRuns: new Map(),
  canaryBake: undefined,
  greenBake: undefined,
  gatewaysSinceMs: undefined,
  goneAtMs: new Map(),
  autoscaleHistory: [],
  zero: undefined,
};
