// A pod as the operator's copy holds it: without the parts of its spec that nobody here reads. Pure.
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

/** The world that a pod was made for (orphans.ts), and where it has its model from (objects/model-place.ts). */
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
