// The interface of an intent: one kind of plan, with when it is wanted and how it is made; and how it has a plan made on a thread.
import type { PlanInput, PlanOutput } from "../../planner/policy.ts";
import type { LoadState } from "../load/load-state.ts";
import type { LoopPorts } from "../loop-ports.ts";
import type { Observed, Why } from "../observed.ts";
import type { Link } from "../ports.ts";
import type { Placement } from "../rollout/placement.ts";
import type { Proposal } from "../rollout/proposal.ts";
import type { DecisionEvents } from "../status/decision-events.ts";
import type { Step, StepEnd } from "./attempts.ts";
import type { Planning } from "./planner-thread.ts";

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
  readonly load: Pick<LoadState, "ask" | "near" | "judge" | "input" | "forgetHistory" | "speeds"> | undefined;
  readonly decisions: Pick<DecisionEvents, "held" | "acted" | "recommend">;
  readonly latest: () => Observed;
  /** The trace of this attempt, as a traceparent. */
  readonly trace: string;
  /** Aborted when an earlier intent is wanted. */
  readonly signal: AbortSignal;
}

/** Undefined where it was abandoned, or where it is for other members than there are by then. */
export async function planned(
  policy: Planning,
  { world, members }: Observed,
  input: PlanInput,
  { ports: { clock, planner, metrics, tracing }, trace, signal, latest }: Tools,
): Promise<PlanOutput | undefined> {
  const { namespace, name: deployment } = world.ref;
  const started = clock.now();
  const span = tracing.start("operator.plan", { parent: trace, attributes: { "enodia.policy": policy } });
  try {
    const output = await planner.plan(policy, input, { signal, owner: namespace });
    metrics.observe("enodia_planner_duration_seconds", (clock.now() - started) / 1000, { namespace, deployment, policy });
    return signal.aborted || latest().members !== members ? undefined : output;
  } catch (caught) {
    if (signal.aborted) return undefined;
    span.fail(caught);
    throw caught;
  } finally {
    span.set({ "enodia.abandoned": signal.aborted });
    span.end();
  }
}
