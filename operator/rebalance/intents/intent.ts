// An intent: one kind of plan, with when it is wanted and how it is made. The loop tries those of index.ts in order at every tick, and
// at most one acts. Types only; it neither carries a plan out (rollout/) nor paces attempts (attempts.ts).
import type { LoadState } from "../load/load-state.ts";
import type { LoopPorts } from "../loop-ports.ts";
import type { Observed, Why } from "../observed.ts";
import type { Link } from "../ports.ts";
import type { Placement } from "../rollout/placement.ts";
import type { Proposal } from "../rollout/proposal.ts";
import type { DecisionEvents } from "../status/decision-events.ts";
import type { Step, StepEnd } from "./attempts.ts";

export interface Intent extends Step {
  /** True when nothing after it acts while it is wanted, not even while it pauses after a failure. */
  readonly holdsUpOthers: boolean;
  /** True when it acts on a window of load, and so only at the tick that closes one. */
  readonly onWindow: boolean;
  /** Says whether it is wanted, from the observation and, at most, what this intent found before; starts nothing. */
  wanted(seen: Observed): Wanted;
  /** Makes its plan, or tells how the attempt ended without one. Whatever it throws counts as a failure. */
  make(seen: Observed, tools: Tools): Made | Promise<Made>;
}

/** An answer to `wanted`; a reason in its place says that nothing may be planned until that has passed. */
export type Wanted = boolean | Why;

export type Made = Proposal | StepEnd;

/** The tools that a plan is made with. */
export interface Tools {
  readonly ports: Pick<LoopPorts, "clock" | "event" | "log" | "metrics" | "planner" | "tracing">;
  readonly placement: Pick<Placement, "read" | "recoveredAs">;
  /** Every link that is open, those of gateways too. */
  readonly links: { all(): readonly Pick<Link, "pushPlan">[] };
  /** The load state as it is at the moment of reading; undefined until a worker was described. */
  readonly load: Pick<LoadState, "ask" | "judge" | "input" | "forgetHistory" | "speeds"> | undefined;
  readonly decisions: Pick<DecisionEvents, "held" | "acted" | "recommend">;
  /** The newest observation, for plans that take time to make. */
  readonly latest: () => Observed;
  /** The trace of this attempt, as a traceparent. */
  readonly trace: string;
  /** Aborted when the plan is not wanted any more, since something that comes before it is. */
  readonly signal: AbortSignal;
}
