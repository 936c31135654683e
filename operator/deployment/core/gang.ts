// The gang of a deployment: who starts its ranks together, and how many have to find room at once. Pure.
import type { MoEDeployment } from "../../../crds/moe-deployment.ts";
import type { Gang, GangScheduler } from "../../gangs/gang.ts";
import { chooseScheduler } from "../../gangs/index.ts";
import type { Served } from "../../kube/informers.ts";
import type { Resource } from "../../kube/kube.ts";
import type { Refusal } from "../../kube/refusal-text.ts";
import { rememberedFloor } from "./capacity.ts";
import { living, type PodFacts } from "./snapshot.ts";

interface ChosenGang {
  /** Undefined where nobody starts ranks together, and while there is nothing to start. */
  readonly gang: Gang | undefined;
  readonly refusals: readonly Refusal[];
}

export function chooseGang(deployment: MoEDeployment, pods: readonly PodFacts[], served: (resource: Resource) => Served): ChosenGang {
  const { scheduler, refusals } = chooseScheduler(deployment.spec, served);
  const members = scheduler ? membersOf(deployment, pods, scheduler) : 0;
  return { gang: scheduler && members > 0 ? { scheduler, members } : undefined, refusals };
}

/**
 * The ranks that are of use only together: those that hold all experts, and as many as still count as serving; all of them while the
 * model's size is not known. Not every rank that is wanted: a world that grows, or that replaces a lost rank, takes room as it comes.
 * Ranks that run outside of the group, from before there was one, are there already, and its scheduler does not count them.
 */
export function membersOf({ spec, status }: MoEDeployment, pods: readonly PodFacts[], scheduler: GangScheduler): number {
  const ranks = spec.suspend ? 0 : status.expertParallel?.desiredRanks || spec.replicas;
  if (ranks === 0) return 0;
  const together = Math.min(ranks, Math.max(rememberedFloor(status)?.count ?? ranks, spec.failurePolicy.minServingReplicas));
  const outside = living(pods).filter(({ node, gang }) => node !== undefined && gang !== scheduler.name).length;
  return Math.max(1, together - outside);
}
