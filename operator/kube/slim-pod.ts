// Drops the parts of a pod's spec that the operator does not read. Pure.
import { modelVolume, workerProcess } from "../../crds/process.ts";
import type { KubeObject } from "./kube.ts";

interface Named {
  readonly name: string;
}
interface Container extends Named {
  readonly image?: string;
  readonly env?: readonly Named[];
}
interface Spec {
  readonly nodeName?: string;
  readonly schedulerName?: string;
  readonly tolerations?: unknown;
  readonly containers?: readonly Container[];
  readonly volumes?: readonly Named[];
}

/** operator/deployment/orphans.ts and operator/deployment/objects/model-place.ts read these. */
const variables: ReadonlySet<string> = new Set(
  [workerProcess.deploymentUid, workerProcess.modelDir, workerProcess.codec].map(({ variable }) => variable),
);

export function slimPod(pod: KubeObject): KubeObject {
  const { apiVersion, kind, metadata, status } = pod;
  const { nodeName, schedulerName, tolerations, containers = [], volumes = [] } = (pod.spec ?? {}) as Spec;
  return {
    apiVersion,
    kind,
    metadata,
    status,
    spec: {
      ...(nodeName === undefined ? {} : { nodeName }),
      ...(schedulerName === undefined ? {} : { schedulerName }),
      ...(tolerations === undefined ? {} : { tolerations }),
      containers: containers.map(({ name, image, env = [] }) => ({ name, image, env: env.filter((one) => variables.has(one.name)) })),
      volumes: volumes.filter(({ name }) => name === modelVolume),
    },
  };
}
