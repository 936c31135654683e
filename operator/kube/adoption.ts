// The operator's marks on its objects, and whether it may adopt those of a deleted namesake.
import { labels } from "../../crds/common.ts";
import { hasCode } from "./errors.ts";
import { type Kube, type KubeObject, type ObjectMeta, type Ref, type Resource, refOf, resources } from "./kube.ts";

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

export const isOwned = ({ metadata }: KubeObject, uid: string): boolean =>
  metadata.ownerReferences?.some((owner) => owner.uid === uid) ?? false;

/**
 * The object before a write that must know whose it is, since the cache may lack our last write and lacks what is not labelled. `adopt`: it
 * is an orphan that may be taken.
 */
export async function beforeWrite(
  kube: Pick<Kube, "get">,
  resource: Resource,
  ref: Ref,
  adopter: Adopter,
): Promise<{ readonly live: KubeObject | undefined; readonly adopt: boolean }> {
  const live = await kube.get(resource, ref);
  return { live, adopt: live !== undefined && (await mayAdopt(kube, live, adopter)) };
}

/** Creates an object unless its owner has it, even if the cache does not show it yet. "foreign": somebody else has the name. */
export async function createOwned(
  kube: Pick<Kube, "create" | "get">,
  resource: Resource,
  object: KubeObject,
  uid: string,
): Promise<"created" | "present" | "foreign"> {
  try {
    await kube.create(resource, object, { manager });
    return "created";
  } catch (caught) {
    if (!hasCode(caught, "AlreadyExists")) throw caught;
    const found = await kube.get(resource, refOf(object));
    return found === undefined || isOwned(found, uid) ? "present" : "foreign";
  }
}
