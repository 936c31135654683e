// The interface of a gang scheduler; index.ts lists them. Pure.
import type { PodTemplate } from "../../crds/moe-deployment.ts";
import type { GangName } from "../../crds/names.ts";
import type { ObjectMeta, Resource } from "../kube/kube.ts";

type Keys = Readonly<Record<string, string>>;

export interface GangScheduler {
  readonly name: GangName;
  /** Its PodGroups. */
  readonly resource: Resource;
  /** Default scheduler name for pods whose template names none. */
  readonly schedulerName: string;
  /** Labels and annotations of a group's members. */
  readonly member: (group: string) => { readonly labels: Keys; readonly annotations: Keys };
  readonly has: (pod: ObjectMeta) => boolean;
  /** The PodGroup's spec for so many members; some fields come from the pods' template. */
  readonly spec: (members: number, podTemplate: PodTemplate | undefined) => object;
}

/** The scheduler, and the members that it starts all or none. */
export interface Gang {
  readonly scheduler: GangScheduler;
  readonly members: number;
}
