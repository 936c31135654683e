// The parts that worker and gateway pods have in common: security, environment, probes, volumes. Used by worker-pod.ts and
// gateway.ts. Pure; the process contract as objects.
import { labels, paths, ports } from "../../../crds/common.ts";
import { parseModelUri } from "../../../crds/moe-deployment.ts";
import { names, type RenderContext } from "./context.ts";

export type Env = { name: string; value: string } | { name: string; valueFrom: { fieldRef: { fieldPath: string } } };

/** User id that the images run as. */
const userId = 65532;

export const podSecurity = {
  runAsNonRoot: true,
  runAsUser: userId,
  runAsGroup: userId,
  fsGroup: userId,
  fsGroupChangePolicy: "OnRootMismatch",
  seccompProfile: { type: "RuntimeDefault" },
};

export const containerSecurity = {
  allowPrivilegeEscalation: false,
  readOnlyRootFilesystem: true,
  capabilities: { drop: ["ALL"] },
};

const field = (name: string, fieldPath: string): Env => ({ name, valueFrom: { fieldRef: { fieldPath } } });

export function commonEnv({ deployment, settings }: RenderContext): Env[] {
  const { name, namespace, uid } = deployment.metadata;
  const { spec } = deployment;
  return [
    { name: "ENODIA_NAMESPACE", value: namespace },
    { name: "ENODIA_DEPLOYMENT", value: name },
    { name: "ENODIA_DEPLOYMENT_UID", value: uid },
    field("ENODIA_POD_NAME", "metadata.name"),
    field("ENODIA_POD_UID", "metadata.uid"),
    field("ENODIA_POD_IP", "status.podIP"),
    { name: "ENODIA_SERVED_NAME", value: spec.model.servedName ?? name },
    { name: "ENODIA_MODEL_PATH", value: `${paths.models}/${parseModelUri(spec.model.uri).folder}` },
    { name: "ENODIA_PEERS_DNS", value: `${names.workers(name)}.${namespace}.svc` },
    { name: "ENODIA_TLS_DIR", value: paths.tls },
    { name: "ENODIA_GRPC_PORT", value: String(ports.grpc) },
    { name: "ENODIA_METRICS_PORT", value: String(ports.metrics) },
    { name: "ENODIA_MAX_CONTEXT", value: String(spec.runtime.maxContext) },
    { name: "ENODIA_LOG_LEVEL", value: settings.logLevel },
    ...(settings.otlpEndpoint ? [{ name: "ENODIA_OTLP_ENDPOINT", value: settings.otlpEndpoint }] : []),
  ];
}

export const rankEnv = (): Env => field("ENODIA_RANK", `metadata.labels['${labels.rank}']`);

/** Ready is asked often, since traffic and experts wait for it; live is patient, since a restart empties the memory. */
export const probes = {
  readinessProbe: { httpGet: { path: "/readyz", port: "metrics" }, periodSeconds: 1, timeoutSeconds: 2, failureThreshold: 3 },
  livenessProbe: {
    httpGet: { path: "/healthz", port: "metrics" },
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
    { name: "models", mountPath: paths.models, readOnly: true },
  ];
}

/** Largest use of /tmp: sockets and small caches only. */
const tmpSize = "256Mi";

export function commonVolumes(context: RenderContext, tlsSecret: string) {
  const { claim } = parseModelUri(context.deployment.spec.model.uri);
  return [
    { name: "tmp", emptyDir: { sizeLimit: tmpSize } },
    { name: "tls", secret: { secretName: tlsSecret, defaultMode: 0o440 } },
    { name: "models", persistentVolumeClaim: { claimName: claim, readOnly: true } },
  ];
}

/** Below a node's own limits; longer than the runtime takes to end its requests. */
export const terminationGraceSeconds = 60;
