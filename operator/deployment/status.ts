// The status after a pass, and when the next one is due. Pure.
import type { MoEDeploymentStatus } from "../../crds/moe-deployment-status.ts";
import type { Outcome } from "../kube/controller.ts";
import { nextStatus } from "./features/status.ts";
import type { Decision } from "./decide.ts";
import type { Executed } from "./execute/execute.ts";
import { impossible } from "./features/repair.ts";
import type { Observed } from "./observed.ts";

/** Retry of refusals whose cause may vanish unnoticed, such as a quota. */
const refusedMs = 10_000;
/** Retry of a refused extra pod. */
const surgeMs = 30_000;
/** Pause after a spec with another model was accepted. */
const switchMs = 10;

export function statusOf({ facts, ranks, repair, progress, spec }: Decision, done: Executed): MoEDeploymentStatus {
  const { snapshot } = facts;
  const { target, floor, memoryRefusals } = ranks;
  return nextStatus({
    ...{ snapshot, target, floor },
    operation: progress.operation,
    rollout: progress.rollout.status,
    refusals: [...snapshot.refusals, ...memoryRefusals],
    blocked: target.blocked ?? repair.step.blocked,
    failures: repair.step.failures,
    failure: done.failure?.message ?? "",
    judgeError: spec.failure?.message ?? "",
    createError: done.createError || impossible(spec),
    scaling: done.scaling,
  });
}

interface Written {
  readonly status: MoEDeploymentStatus;
  /** Milliseconds until a delayed write is due. */
  readonly heldMs: number | undefined;
}

export function outcomeOf(observed: Observed, decision: Decision, done: Executed, { status, heldMs }: Written): Outcome {
  const { facts, spec, change, delivery, answers, blueGreen, ranks, repair, progress } = decision;
  const { snapshot } = facts;
  const { failure } = done;
  const deadline = status.operation?.deadline;
  const waits = [
    ...[ranks.target.settlesInMs, repair.step.againInMs, progress.rollout.againInMs, done.scaling?.againInMs, heldMs],
    deadline ? Date.parse(deadline) - snapshot.now.getTime() + 1 : undefined,
    observed.warmMs,
    snapshot.refusals.length > 0 || snapshot.conflicts.length > 0 || failure ? refusedMs : undefined,
    done.remember.surgeRefused ? surgeMs : undefined,
    done.remember.createError === observed.memory.createError ? undefined : 1, // a deleted namesake's pods may have to give way
    ...[delivery.againInMs, answers.againInMs, blueGreen.look?.againInMs],
    change.switches && spec.good ? switchMs : undefined,
  ].filter((ms): ms is number => ms !== undefined && ms > 0);
  return { ...(waits.length === 0 ? {} : { requeueAfterMs: Math.min(...waits) }), ...(failure ? { failure } : {}) };
}
