// The number of ranks that is wanted now: spec.replicas once it stood still for elasticity.settle, 0 while suspended, and never fewer than
// hold all experts once so many were wanted. What waits stands in the status, so that a new leader settles on the same moment. Pure.

import type { MoEDeployment } from "../../../crds/moe-deployment.ts";
import { parseDuration } from "../../../crds/quantity.ts";
import type { Reckoned } from "./capacity.ts";
import type { Blocked } from "./pod-actions.ts";

export interface Target {
  readonly ranks: number;
  readonly pending: { readonly replicas: number; readonly since: Date } | undefined;
  /** Milliseconds until the value that waits takes effect; undefined when none waits. */
  readonly settlesInMs: number | undefined;
  /** Why there are more ranks than spec.replicas asks for. */
  readonly blocked: Blocked | undefined;
}

export interface TargetLook {
  /** The least ranks that hold all experts, where that is known. */
  readonly floor?: Reckoned | undefined;
  /** True where spec.replicas is a default that nobody means (../autoscaler.ts): no rank goes by it. */
  readonly fallen?: boolean;
}

export function targetRanks(deployment: MoEDeployment, now: Date, { floor, fallen = false }: TargetLook = {}): Target {
  const { spec, status } = deployment;
  const at = (ranks: number): Target => ({ ranks, pending: undefined, settlesInMs: undefined, blocked: undefined });
  if (spec.suspend) return at(0);
  const present = status.expertParallel?.desiredRanks;
  // Starting from nothing there is nothing to disturb, and stopping is not to be guessed at either.
  if (present === undefined || present === 0 || present === spec.replicas) return at(spec.replicas);
  if (fallen && spec.replicas < present) return at(present);
  if (floor && spec.replicas > 0 && spec.replicas < floor.count && present >= floor.count) {
    const message = `replicas ${spec.replicas}: at least ${floor.count} ranks hold all experts (${floor.reason}); ${present} stay`;
    return { ...at(present), blocked: { reason: "ScaleDownBlocked", message } };
  }
  const world = status.expertParallel;
  const asked = world?.pendingReplicas === spec.replicas && world.pendingSince ? new Date(world.pendingSince) : now;
  const waited = asked > now ? now : asked; // the clock was ahead when it was written
  const left = waited.getTime() + parseDuration(spec.elasticity.settle, "spec.elasticity.settle") - now.getTime();
  if (left <= 0) return at(spec.replicas);
  return { ...at(present), pending: { replicas: spec.replicas, since: waited }, settlesInMs: left };
}
