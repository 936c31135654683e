// Which gang scheduler starts a deployment's ranks, and how many must fit at once. Pure.
import type { MoEDeployment } from "../../../crds/moe-deployment.ts";
import type { Gang, GangScheduler } from "../../gangs/gang.ts";
import { chooseScheduler } from "../../gangs/index.ts";
import type { Served } from "../../kube/informers.ts";
import type { Resource } from "../../kube/kube.ts";
import type { Refusal } from "../../kube/refusal-text.ts";
import { rememberedFloor } from "./capacity.ts";
import { living, type PodFacts } from "./snapshot.ts";

interface ChosenGang {
  /** Undefined without a gang scheduler or ranks. */
  readonly gang: Gang | undefined;
  readonly refusals: readonly Refusal[];
}

export function chooseGang(deployment: MoEDeployment, pods: readonly PodFacts[], served: (resource: Resource) => Served): ChosenGang {
  const { scheduler, refusals } = chooseScheduler(deployment.spec, served);
  const members = scheduler ? membersOf(deployment, pods, scheduler) : 0;
  return { gang: scheduler && members > 0 ? { scheduler, members } : undefined, refusals };
}

/**
 * The ranks that are useful only together: those that hold all experts, and enough to serve; all while the model's size is unknown. Growth
 * and replacements need no gang. Running ranks from before the group count as present.
 */
export function membersOf({ spec, status }: MoEDeployment, pods: readonly PodFacts[], scheduler: GangScheduler): number {
  const ranks = spec.suspend ? 0 : status.expertParallel?.desiredRanks || spec.replicas;
  if (ranks === 0) return 0;
  const together = Math.min(ranks, Math.max(rememberedFloor(status)?.count ?? ranks, spec.failurePolicy.minServingReplicas));
  const outside = living(pods).filter(({ node, gang }) => node !== undefined && gang !== scheduler.name).length;
  return Math.max(1, together - outside);
}
