// The contract of a scheduler that knows groups of pods (one file each, index.ts is the list), and how many ranks of a deployment have
// to find room together. Pure.
import type { MoEDeployment, PodTemplate } from "../../crds/moe-deployment.ts";
import type { GangName } from "../../crds/names.ts";
import type { ObjectMeta, Resource } from "../kube/kube.ts";
import { rememberedFloor } from "../deployment/core/capacity.ts";
import { living, type PodFacts } from "../deployment/core/snapshot.ts";

type Keys = Readonly<Record<string, string>>;

export interface GangScheduler {
  readonly name: GangName;
  /** Its PodGroups. */
  readonly resource: Resource;
  /** The name that it has unless its own configuration says otherwise. Pods go to it where their template names none. */
  readonly schedulerName: string;
  /** What makes a pod a member of a group of its namespace. */
  readonly member: (group: string) => { readonly labels: Keys; readonly annotations: Keys };
  /** True of a pod that is a member of any group. */
  readonly has: (pod: ObjectMeta) => boolean;
  /** The spec of a PodGroup of which so many members start together, beside what it takes from its pods' template. */
  readonly spec: (members: number, podTemplate: PodTemplate | undefined) => object;
}

/** The scheduler in charge of ranks, and the members that it starts together or not at all. */
export interface Gang {
  readonly scheduler: GangScheduler;
  readonly members: number;
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
