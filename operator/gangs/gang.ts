// The contract of a scheduler that knows groups of pods; index.ts lists them. Pure.
import type { PodTemplate } from "../../crds/moe-deployment.ts";
import type { GangName } from "../../crds/names.ts";
import type { ObjectMeta, Resource } from "../kube/kube.ts";

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
