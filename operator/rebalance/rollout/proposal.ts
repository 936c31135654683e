// A plan as an intent proposes it to the rollout, and the report of it and of its end. Types only, which intents, rollout and status
// have in common.
import type { ExpertPlacementStatus } from "../../../crds/expert-placement.ts";
import type { LayerPlan, PlacementPlan } from "../../../crds/plan.ts";
import type { PlanInput } from "../../planner/policy.ts";

export interface Proposal {
  /** The name that people read in events, metrics and status; nothing is decided by it. */
  readonly kind: string;
  readonly layers: readonly LayerPlan[];
  readonly reason: string;
  /** The plan that is committed when it begins; undefined while nothing is served yet. */
  readonly parent: PlacementPlan | undefined;
  /** True when its transfers keep to the spec's limit, since nobody waits for them. */
  readonly limited: boolean;
  /** True when it moves what is served: its start is told as an event, its end as the last rebalance of the status. */
  readonly announced: boolean;
  /** True when it need not be made again for the same members once it holds as it was wanted. */
  readonly once: boolean;
  /** The stored plan, when the rollout goes on with it, and the layers of it that somebody may have committed. */
  readonly resume?: { readonly plan: PlacementPlan; readonly committed: ReadonlySet<number> };
  readonly predicted?: { readonly before: number; readonly after: number; readonly bound: number };
  /** The planner's input that a plan which moves experts was made from. */
  readonly input?: PlanInput;
}

/** The report of a plan on itself in the status of the ExpertPlacement. */
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
  /** The result; undefined when the plan was cut short, such as when the store did not answer. */
  readonly result: PlanResult | undefined;
}
