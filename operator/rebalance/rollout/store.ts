// Stores ExpertPlacements: a write with the resourceVersion that was read allocates an epoch, and Conflict means that another leader
// was faster.
import { AppError, apiVersion } from "../../../crds/common.ts";
import { parseExpertPlacement } from "../../../crds/expert-placement.ts";
import { objectLabels } from "../../deployment/objects/context.ts";
import { type Kube, type KubeObject, type ObjectMeta, type Ref, resources } from "../../kube/kube.ts";
import type { PlacementStore, StoredPlacement } from "../ports.ts";

const manager = "enodia-rebalance";
/** Status writes also change the resourceVersion; then the plan is compared and written again. */
const writeAttemptsMax = 4;

export function placementStore(kube: Kube): PlacementStore {
  return {
    async read(ref) {
      const object = await kube.get(resources.expertPlacements, ref);
      return object ? stored(object) : undefined;
    },
    async write(ref, ownerUid, spec, known) {
      for (let attempt = 1; ; attempt++) {
        const object = await kube.get(resources.expertPlacements, ref);
        const present = object ? stored(object) : undefined;
        if (present && !samePlan(present, known)) throw conflict(ref.name);
        const metadata = metadataOf(ref, ownerUid, object?.metadata);
        const next: KubeObject = { apiVersion, kind: resources.expertPlacements.kind, metadata, spec };
        const { expertPlacements } = resources;
        try {
          const written = metadata.resourceVersion
            ? await kube.update(expertPlacements, next, { manager })
            : await kube.create(expertPlacements, next, { manager });
          return stored(written);
        } catch (caught) {
          if (attempt >= writeAttemptsMax || AppError.from(caught).code !== "Conflict") throw caught;
        }
      }
    },
    applyStatus: (...write) => kube.applyStatus(...write),
  };
}

/** Keeps what others wrote into the metadata of `known`. */
function metadataOf(ref: Ref, ownerUid: string, known: ObjectMeta | undefined): KubeObject["metadata"] {
  const owner = {
    apiVersion,
    kind: resources.moeDeployments.kind,
    name: ref.name,
    uid: ownerUid,
    controller: true,
    blockOwnerDeletion: true,
  };
  const { managedFields: _, ...rest } = known ?? {};
  return {
    ...rest,
    name: ref.name,
    namespace: ref.namespace,
    labels: { ...known?.labels, ...objectLabels(ref.name, "shared") },
    ownerReferences: [...(known?.ownerReferences ?? []).filter(({ kind }) => kind !== owner.kind), owner],
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
  const { metadata, spec, status } = parseExpertPlacement(object);
  return { uid: metadata.uid, spec, status };
}
