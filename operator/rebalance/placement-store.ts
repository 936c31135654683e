// ExpertPlacement through the Kubernetes port: read, write with the resourceVersion it was read at, status. The
// successful write is what allocates an epoch; a Conflict means that another leader was faster.
import { AppError, apiVersion } from "../../crds/common.ts";
import { type ExpertPlacementSpec, type ExpertPlacementStatus, parseExpertPlacement } from "../../crds/expert-placement.ts";
import { type Kube, type KubeObject, type Ref, resources } from "../kube/kube.ts";
import type { PlacementStore, StoredPlacement } from "./ports.ts";

const manager = "enodia-rebalance";

export function placementStore(kube: Kube): PlacementStore {
  return {
    async read(ref) {
      const object = await kube.get(resources.expertPlacements, ref);
      return object ? stored(object) : undefined;
    },
    async write(ref, ownerUid, spec, known) {
      // Status writes (ours too) move the resourceVersion; what must not have moved is the plan.
      const object = await kube.get(resources.expertPlacements, ref);
      const present = object ? stored(object) : undefined;
      if (present && !samePlan(present, known)) throw conflict(ref.name);
      const next = placementObject(ref, ownerUid, spec, present?.resourceVersion);
      const written = present
        ? await kube.update(resources.expertPlacements, next, { manager })
        : await kube.create(resources.expertPlacements, next, { manager });
      return stored(written);
    },
    writeStatus: (ref, status) => writeStatus(kube, ref, status),
  };
}

function placementObject(ref: Ref, ownerUid: string, spec: ExpertPlacementSpec, resourceVersion: string | undefined): KubeObject {
  const owner = {
    apiVersion,
    kind: resources.moeDeployments.kind,
    name: ref.name,
    uid: ownerUid,
    controller: true,
    blockOwnerDeletion: true,
  };
  return {
    apiVersion,
    kind: resources.expertPlacements.kind,
    metadata: { name: ref.name, namespace: ref.namespace, ...(resourceVersion ? { resourceVersion } : {}), ownerReferences: [owner] },
    spec,
  };
}

function samePlan(present: StoredPlacement, known: StoredPlacement | undefined): boolean {
  return known !== undefined && present.spec.epoch === known.spec.epoch && present.spec.planHash === known.spec.planHash;
}

function conflict(name: string): AppError {
  return new AppError(`ExpertPlacement ${name} was changed by another writer`, {
    code: "Conflict",
    operation: "writing a plan",
    retry: "backoff",
  });
}

function stored(object: KubeObject): StoredPlacement {
  const parsed = parseExpertPlacement(object);
  return { resourceVersion: parsed.metadata.resourceVersion, spec: parsed.spec, status: parsed.status };
}

async function writeStatus(kube: Kube, ref: Ref, status: ExpertPlacementStatus): Promise<void> {
  const object: KubeObject = {
    apiVersion,
    kind: resources.expertPlacements.kind,
    metadata: { name: ref.name, namespace: ref.namespace },
    status,
  };
  await kube.applyStatus(resources.expertPlacements, object, { manager });
}
