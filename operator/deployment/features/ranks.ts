// The number of ranks to run, and the fewest that hold all experts. After the facts, before all that counts ranks. Pure.
import type { MoEDeployment } from "../../../crds/moe-deployment.ts";
import { parseDuration } from "../../../crds/quantity.ts";
import { memoryRefusals, type Reckoned, rankFloor, rememberedFloor } from "../core/capacity.ts";
import { endRefusals, endsOf } from "../core/ends.ts";
import { retryNote } from "../core/refused-start.ts";
import { facts } from "./facts.ts";
import { feature } from "./feature.ts";
import type { Blocked } from "./pod-actions.ts";
import { spec } from "./spec.ts";

export const ranks = feature({
  needs: { spec, facts },
  run: ({ fallen }, { spec, facts: { snapshot } }) => {
    const { deployment, view, now } = snapshot;
    const { limitBytes } = spec.template;
    const floor = view?.model ? rankFloor(deployment.spec, view.model, limitBytes) : rememberedFloor(deployment.status);
    const target = targetRanks(deployment, now, { floor, fallen });
    const refusals = [
      ...memoryRefusals(deployment.spec, view?.model, target.ranks, limitBytes),
      ...endRefusals(endsOf(snapshot)),
      ...retryNote(snapshot),
    ];
    return { target, floor, refusals };
  },
});

/** Ranks until a changed number takes effect. */
export const presentOf = ({ expertParallel }: MoEDeployment["status"]): number => expertParallel?.desiredRanks ?? 0;

export interface Target {
  readonly ranks: number;
  readonly pending: { readonly replicas: number; readonly since: Date } | undefined;
  /** Milliseconds until the pending value takes effect; undefined without one. */
  readonly settlesInMs: number | undefined;
  /** Why there are more ranks than spec.replicas. */
  readonly blocked: Blocked | undefined;
}

export interface TargetLook {
  /** The fewest ranks that hold all experts, where known. */
  readonly floor?: Reckoned | undefined;
  /** spec.replicas fell to its default (observe.ts): no rank follows it. */
  readonly fallen?: boolean;
}

export function targetRanks(deployment: MoEDeployment, now: Date, { floor, fallen = false }: TargetLook = {}): Target {
  const { spec, status } = deployment;
  const at = (ranks: number): Target => ({ ranks, pending: undefined, settlesInMs: undefined, blocked: undefined });
  if (spec.suspend) return at(0);
  const present = status.expertParallel?.desiredRanks;
  // Neither a start from zero nor a stop has to settle.
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
