// A plan as an intent proposes it to the rollout, and the report of it and of its end.
import type { ExpertPlacementStatus } from "../../../crds/expert-placement.ts";
import type { LayerPlan, PlacementPlan } from "../../../crds/plan.ts";
import type { PlanInput } from "../../planner/policy.ts";

export interface Proposal {
  readonly kind: string;
  readonly layers: readonly LayerPlan[];
  readonly reason: string;
  /** The committed plan at its start; undefined while nothing is served. */
  readonly parent: PlacementPlan | undefined;
  /** True when its transfers keep to the spec's limit. */
  readonly limited: boolean;
  /** True when nothing holds what it loads, as at the start: its layers do not wait for each other, only for memory. */
  readonly atOnce?: boolean;
  /** True when it moves served experts: its start is an event, its end the last rebalance of the status. */
  readonly announced: boolean;
  /** True when it need not be repeated for the same members. */
  readonly once: boolean;
  /** A stored plan to continue, and those of its layers that a rank may have committed. */
  readonly resume?: { readonly plan: PlacementPlan; readonly committed: ReadonlySet<number> };
  readonly predicted?: { readonly before: number; readonly after: number; readonly bound: number };
  readonly input?: PlanInput;
}

export type PlanReport = Pick<
  ExpertPlacementStatus,
  "phase" | "committedEpoch" | "layersCommitted" | "deadline" | "predicted" | "measured" | "reason"
>;

export interface PlanResult {
  readonly outcome: "committed" | "aborted" | "superseded";
  readonly moves: number;
  readonly bytes: number;
  readonly durationMs: number;
}

export interface PlanEnd {
  readonly kind: string;
  /** Undefined when the plan was interrupted, as by a failure of the store. */
  readonly result: PlanResult | undefined;
}
