// The number of ranks that are wanted now: spec.replicas once it stood still for elasticity.settle, 0 while suspended. Pure; called
// by reconcile.ts. The value acted on and the one that waits are kept in status, so that a new leader settles on the same moment.

import type { MoEDeployment } from "../../../crds/moe-deployment.ts";
import { parseDuration } from "../../../crds/quantity.ts";

export interface Target {
  readonly ranks: number;
  readonly pending: { readonly replicas: number; readonly since: Date } | undefined;
  /** Milliseconds until the value that waits takes effect; undefined when none waits. */
  readonly settlesInMs: number | undefined;
}

export function targetRanks(deployment: MoEDeployment, now: Date): Target {
  const { spec, status } = deployment;
  const at = (ranks: number): Target => ({ ranks, pending: undefined, settlesInMs: undefined });
  if (spec.suspend) return at(0);
  const present = status.expertParallel?.desiredRanks;
  // Starting from nothing there is nothing to disturb, and stopping is not to be guessed at either.
  if (present === undefined || present === 0 || present === spec.replicas) return at(spec.replicas);
  const world = status.expertParallel;
  const waited = world?.pendingReplicas === spec.replicas && world.pendingSince ? new Date(world.pendingSince) : now;
  const left = waited.getTime() + parseDuration(spec.elasticity.settle, "spec.elasticity.settle") - now.getTime();
  if (left <= 0) return at(spec.replicas);
  return { ranks: present, pending: { replicas: spec.replicas, since: waited }, settlesInMs: left };
}
