// A plan as an intent proposes it to the rollout, and what the rollout says of its end. Types only: the words that intents, rollout and
// status have in common.
import type { ExpertPlacementStatus } from "../../../crds/expert-placement.ts";
import type { LayerPlan, PlacementPlan } from "../../../crds/plan.ts";
import type { PlanInput } from "../../planner/policy.ts";

export interface Proposal {
  /** For people: events, metrics and status name it. Nothing is decided by it. */
  readonly kind: string;
  readonly layers: readonly LayerPlan[];
  readonly reason: string;
  /** What is committed when it begins; undefined: nothing is served yet. */
  readonly parent: PlacementPlan | undefined;
  /** Its transfers keep to the spec's limit: nobody waits for them. */
  readonly limited: boolean;
  /** It moves what is served: its start is an event, its end the status' last rebalance. */
  readonly announced: boolean;
  /** When it holds as it was wanted it need not be made again for the same members. */
  readonly once: boolean;
  /** The stored plan is gone on with; these layers somebody may have committed. */
  readonly resume?: { readonly plan: PlacementPlan; readonly committed: ReadonlySet<number> };
  readonly predicted?: { readonly before: number; readonly after: number; readonly bound: number };
  /** What a plan that moves experts was made from. */
  readonly input?: PlanInput;
}

/** What a plan says of itself in the status of the ExpertPlacement. */
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
  /** Undefined: it was cut short, such as when the store did not answer. */
  readonly result: PlanResult | undefined;
}
