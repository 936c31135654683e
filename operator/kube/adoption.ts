// What the operator marks as its own, and whether it may take over what a deleted owner of the same name left.
import { labels } from "../../crds/common.ts";
import { type Kube, type KubeObject, type ObjectMeta, type Ref, type Resource, resources } from "./kube.ts";

/** A kind of object that owns others. */
export interface OwnerKind {
  readonly kind: "MoEDeployment" | "MoETrainingJob";
  /** The label that carries its name on what it owns. */
  readonly label: string;
  readonly resource: Resource;
}

export const deploymentKind: OwnerKind = { kind: "MoEDeployment", label: labels.deployment, resource: resources.moeDeployments };
export const jobKind: OwnerKind = { kind: "MoETrainingJob", label: labels.trainingJob, resource: resources.moeTrainingJobs };

/** The field manager of everything that the operator writes. */
export const manager = "enodia-operator";
/** Labels of everything that the operator makes. */
export const makerLabels = { "app.kubernetes.io/name": "enodia", "app.kubernetes.io/managed-by": manager } as const;

/**
 * True of what a deleted owner of that name left: `kubectl delete --cascade=orphan` takes the owner references off. Only our labels prove
 * that the operator made it.
 */
export function isOrphan({ labels: have, ownerReferences }: ObjectMeta, name: string, label: string = labels.deployment): boolean {
  const ours = { ...makerLabels, [label]: name };
  return (ownerReferences ?? []).length === 0 && Object.entries(ours).every(([key, value]) => have?.[key] === value);
}

/** What would take it: a deployment where it does not say. */
export interface Adopter extends Ref {
  readonly uid: string;
  readonly of?: Pick<OwnerKind, "label" | "resource">;
}

/** Asks the API server whether the adopter stands: while it is deleted with --cascade=orphan, an adopted object would be collected with it. */
export async function mayAdopt(kube: Pick<Kube, "get">, object: KubeObject, adopter: Adopter): Promise<boolean> {
  const { namespace, name, uid, of = deploymentKind } = adopter;
  if (!isOrphan(object.metadata, name, of.label)) return false;
  const live = await kube.get(of.resource, { namespace, name });
  return live?.metadata.uid === uid && live.metadata.deletionTimestamp === undefined;
}
