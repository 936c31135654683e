// The parts that worker and gateway pods share: security, probes, volumes and environment. Pure.
import { paths } from "../../../crds/common.ts";
import type { MoEDeploymentSpec } from "../../../crds/moe-deployment.ts";
import { modelVolume, type ProcessFacts } from "../../../crds/process.ts";
import { names, type RenderContext } from "./context.ts";
import { modelPlace } from "./model-place.ts";

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

/** Readiness is probed often, since traffic waits for it; liveness is patient, since a restart empties the memory. */
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

export const modelMount = { name: modelVolume, mountPath: paths.models, readOnly: true };

export function modelVolumeOf({ deployment, weightServer }: RenderContext) {
  const { claim } = modelPlace(deployment.spec);
  // Node disk: the dense part and the experts that the rank hosts or has hosted.
  if (weightServer || claim === undefined) return { name: modelVolume, emptyDir: {} };
  return { name: modelVolume, persistentVolumeClaim: { claimName: claim, readOnly: true } };
}

/** Bound of /tmp: sockets, small caches, a gateway's tokenizer. */
const tmpSize = "256Mi";

export function commonVolumes(tlsSecret: string) {
  return [
    { name: "tmp", emptyDir: { sizeLimit: tmpSize } },
    { name: "tls", secret: { secretName: tlsSecret, defaultMode: 0o440 } },
  ];
}

/** Below common limits of nodes, and longer than requests take to end. */
export const terminationGraceSeconds = 60;

/** One expert in f32 and pieces of files; the page cache takes what is written. */
const modelRequests = { cpu: "500m", memory: "1Gi" };

/** Resources of pods that fetch the model. */
export function modelPodResources({ model }: Pick<MoEDeploymentSpec, "model">): object {
  const { requests = modelRequests, limits } = model.resources ?? {};
  return limits === undefined ? { requests } : { requests, limits };
}

/** Proxy variables of the workers' template. */
const proxyVariables = ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"];

export function proxyEnv(runtime: Readonly<Record<string, unknown>> | undefined): object[] {
  const env = Array.isArray(runtime?.env) ? (runtime.env as { readonly name?: unknown }[]) : [];
  const given = env.filter(({ name }) => proxyVariables.includes(String(name)));
  return given.length === 0 ? [] : [...given, { name: "NODE_USE_ENV_PROXY", value: "1" }];
}
