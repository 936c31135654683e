// The operator's marks on its objects, and whether it may adopt those of a deleted namesake.
import { labels } from "../../crds/common.ts";
import { type Kube, type KubeObject, type ObjectMeta, type Ref, type Resource, resources } from "./kube.ts";

export interface OwnerKind {
  readonly kind: "MoEDeployment" | "MoETrainingJob";
  /** The label with its name on owned objects. */
  readonly label: string;
  readonly resource: Resource;
}

export const deploymentKind: OwnerKind = { kind: "MoEDeployment", label: labels.deployment, resource: resources.moeDeployments };
export const jobKind: OwnerKind = { kind: "MoETrainingJob", label: labels.trainingJob, resource: resources.moeTrainingJobs };

export const manager = "enodia-operator";
export const makerLabels = { "app.kubernetes.io/name": "enodia", "app.kubernetes.io/managed-by": manager } as const;

/** `kubectl delete --cascade=orphan` removes owner references, so that only our labels prove who made an object. */
export function isOrphan({ labels: have, ownerReferences }: ObjectMeta, name: string, label: string = labels.deployment): boolean {
  const ours = { ...makerLabels, [label]: name };
  return (ownerReferences ?? []).length === 0 && Object.entries(ours).every(([key, value]) => have?.[key] === value);
}

/** The adopting owner; a deployment by default. */
export interface Adopter extends Ref {
  readonly uid: string;
  readonly of?: Pick<OwnerKind, "label" | "resource">;
}

/** Asks the API server whether the adopter is being deleted with --cascade=orphan, which would collect an adopted object too. */
export async function mayAdopt(kube: Pick<Kube, "get">, object: KubeObject, adopter: Adopter): Promise<boolean> {
  const { namespace, name, uid, of = deploymentKind } = adopter;
  if (!isOrphan(object.metadata, name, of.label)) return false;
  const live = await kube.get(of.resource, { namespace, name });
  return live?.metadata.uid === uid && live.metadata.deletionTimestamp === undefined;
}
