// The parts that worker and gateway pods have in common: security, probes, volumes, and the facts that their environment is
// rendered from. Used by worker-pod.ts and gateway.ts. Pure.
import { paths } from "../../../crds/common.ts";
import type { MoEDeploymentSpec } from "../../../crds/moe-deployment.ts";
import { modelVolume, type ProcessFacts } from "../../../crds/process.ts";
import { names, type RenderContext } from "./context.ts";
import { modelPlace } from "./model-place.ts";

/** Facts that the environment of a pod is rendered from. */
export function processFacts({ deployment, weightServer }: RenderContext): ProcessFacts {
  const { name, namespace } = deployment.metadata;
  const weightServerDns = weightServer && `${names.weightServer(name)}.${namespace}.svc`;
  const { folder: modelFolder } = modelPlace(deployment.spec);
  return {
    deployment,
    peersDns: `${names.workers(name)}.${namespace}.svc`,
    settingsMap: names.settings(name),
    modelFolder,
    weightServerDns,
  };
}

/** Ready is asked often, since traffic and experts wait for it; live is patient, since a restart empties the memory. */
export const probes = {
  readinessProbe: { httpGet: { path: "/readyz", port: "probes" }, periodSeconds: 1, timeoutSeconds: 2, failureThreshold: 3 },
  livenessProbe: {
    httpGet: { path: "/healthz", port: "probes" },
    initialDelaySeconds: 15,
    periodSeconds: 10,
    timeoutSeconds: 5,
    failureThreshold: 6,
  },
};

export function commonMounts() {
  return [
    { name: "tmp", mountPath: "/tmp" },
    { name: "tls", mountPath: paths.tls, readOnly: true },
  ];
}

/** The claim with the model. */
export const modelMount = { name: modelVolume, mountPath: paths.models, readOnly: true };

export function modelVolumeOf({ deployment, weightServer }: RenderContext) {
  const { claim } = modelPlace(deployment.spec);
  // Disk of the node, not its memory: it takes the dense part and what the rank hosts or has hosted, never more than the store has.
  if (weightServer || claim === undefined) return { name: modelVolume, emptyDir: {} };
  return { name: modelVolume, persistentVolumeClaim: { claimName: claim, readOnly: true } };
}

/** Largest use of /tmp: sockets and small caches, and a gateway's tokenizer. */
const tmpSize = "256Mi";

export function commonVolumes(tlsSecret: string) {
  return [
    { name: "tmp", emptyDir: { sizeLimit: tmpSize } },
    { name: "tls", secret: { secretName: tlsSecret, defaultMode: 0o440 } },
  ];
}

/** The grace period of a gateway: below a node's own limits, and longer than it takes to end its requests. */
export const terminationGraceSeconds = 60;

/** Of one expert in f32 and pieces of files; the rest of the node's memory is the cache of what is written. */
const modelRequests = { cpu: "500m", memory: "1Gi" };

/** Resources of the pods that bring the model. */
export function modelPodResources({ model }: Pick<MoEDeploymentSpec, "model">): object {
  const { requests = modelRequests, limits } = model.resources ?? {};
  return limits === undefined ? { requests } : { requests, limits };
}

/** Variables that the workers' template shares with others: the way out of the cluster. */
const proxyVariables = ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"];

/** Of pods that reach the source of a model. */
export function proxyEnv(runtime: Readonly<Record<string, unknown>> | undefined): object[] {
  const env = Array.isArray(runtime?.env) ? (runtime.env as { readonly name?: unknown }[]) : [];
  const given = env.filter(({ name }) => proxyVariables.includes(String(name)));
  return given.length === 0 ? [] : [...given, { name: "NODE_USE_ENV_PROXY", value: "1" }];
}
