// ExpertPlacement through the Kubernetes port: read, write with the resourceVersion it was read at, status. The
// successful write is what allocates an epoch; a Conflict means that another leader was faster.
import { apiVersion } from "../../crds/common.ts";
import { type ExpertPlacementStatus, parseExpertPlacement } from "../../crds/expert-placement.ts";
import { type Kube, type KubeObject, type Ref, resources } from "../kube/kube.ts";
import type { PlacementStore, StoredPlacement } from "./ports.ts";

const manager = "enodia-rebalance";

export function placementStore(kube: Kube): PlacementStore {
  return {
    async read(ref) {
      const object = await kube.get(resources.expertPlacements, ref);
      return object ? stored(object) : undefined;
    },
    async write(ref, ownerUid, spec, resourceVersion) {
      const object: KubeObject = {
        apiVersion,
        kind: resources.expertPlacements.kind,
        metadata: {
          name: ref.name,
          namespace: ref.namespace,
          ...(resourceVersion ? { resourceVersion } : {}),
          ownerReferences: [
            { apiVersion, kind: resources.moeDeployments.kind, name: ref.name, uid: ownerUid, controller: true, blockOwnerDeletion: true },
          ],
        },
        spec,
      };
      const written = resourceVersion
        ? await kube.update(resources.expertPlacements, object, { manager })
        : await kube.create(resources.expertPlacements, object, { manager });
      return stored(written);
    },
    writeStatus: (ref, status) => writeStatus(kube, ref, status),
  };
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
