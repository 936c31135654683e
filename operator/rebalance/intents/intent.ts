// The interface of an intent: one kind of plan, with when it is wanted and how it is made.
import type { LoadState } from "../load/load-state.ts";
import type { LoopPorts } from "../loop-ports.ts";
import type { Observed, Why } from "../observed.ts";
import type { Link } from "../ports.ts";
import type { Placement } from "../rollout/placement.ts";
import type { Proposal } from "../rollout/proposal.ts";
import type { DecisionEvents } from "../status/decision-events.ts";
import type { Step, StepEnd } from "./attempts.ts";

export interface Intent extends Step {
  /** True when later intents wait while it is wanted, even during its pause after a failure. */
  readonly holdsUpOthers: boolean;
  /** True when it acts only at the tick that closes a window of load. */
  readonly onWindow: boolean;
  /** Says whether it is wanted, by the observation and this intent's earlier results. */
  wanted(seen: Observed): Wanted;
  /** Makes its plan, or returns how the attempt ended. A throw counts as a failure. */
  make(seen: Observed, tools: Tools): Made | Promise<Made>;
}

/** A reason means that nothing may be planned until it has passed. */
export type Wanted = boolean | Why;

export type Made = Proposal | StepEnd;

export interface Tools {
  readonly ports: Pick<LoopPorts, "clock" | "event" | "log" | "metrics" | "planner" | "tracing">;
  readonly placement: Pick<Placement, "read" | "recoveredAs">;
  readonly links: { all(): readonly Pick<Link, "pushPlan">[] };
  readonly load: Pick<LoadState, "ask" | "judge" | "input" | "forgetHistory" | "speeds"> | undefined;
  readonly decisions: Pick<DecisionEvents, "held" | "acted" | "recommend">;
  readonly latest: () => Observed;
  /** The trace of this attempt, as a traceparent. */
  readonly trace: string;
  /** Aborted when an earlier intent is wanted. */
  readonly signal: AbortSignal;
}
