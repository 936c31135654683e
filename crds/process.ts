// The environment of workers and gateways, which the operator renders and runtime/config.ts parses. Operator settings go through a
// ConfigMap, because a changed template would replace every pod.
import { z } from "zod";
import { labels, paths, ports } from "./common.ts";
import { defaultPrefetch, prefetchModes } from "./experts-spec.ts";
import { gatewayClient } from "./gateway-access.ts";
import { gatewayJwt } from "./gateway-jwt.ts";
import { offloadBytes } from "./kv-offload.ts";
import type { MoEDeployment, MoEDeploymentSpec } from "./moe-deployment.ts";
import {
  backendChoices,
  codecNames,
  defaultBackend,
  defaultLogLevel,
  defaultOversubscription,
  defaultRoutingPolicy,
  kvTypes,
  type LogLevel,
  logLevels,
  oversubscriptionModes,
  routingPolicyNames,
  unknownFieldsModes,
} from "./names.ts";
import { natsOf, type OwnNats } from "./nats-access.ts";
import { parseDuration, parseQuantity } from "./quantity.ts";
import { loadSampleMs } from "./telemetry.ts";
import { telemetrySecretEntries } from "./telemetry-keys.ts";
import { rowsFrom, type SettingsOf, settings } from "./variables.ts";

/** The operator's own settings are not among them. */
export interface ProcessFacts {
  readonly deployment: MoEDeployment;
  readonly peersDns: string;
  readonly settingsMap: string;
  readonly modelFolder: string;
  /** Service of the weight server; undefined where ranks mount the claim. */
  readonly weightServerDns?: string | undefined;
}

interface HandedOn extends OwnNats {
  readonly otlpEndpoint: string | undefined;
  readonly traceRatio?: number | undefined;
  readonly logLevel: LogLevel;
  /** Undefined = the public hub. */
  readonly hub: string | undefined;
}

export function settingEntries(settings: HandedOn, spec: Pick<MoEDeploymentSpec, "telemetry">): Record<string, string> {
  const { otlpEndpoint, traceRatio, logLevel, hub } = settings;
  const nats = natsOf(spec, settings);
  const entries = {
    ENODIA_LOG_LEVEL: logLevel,
    ENODIA_OTLP_ENDPOINT: otlpEndpoint,
    ENODIA_TRACE_RATIO: traceRatio?.toString(),
    ENODIA_NATS_URL: nats?.url,
    ENODIA_NATS_CREDS: nats?.ranks === "issued" ? paths.telemetry : undefined,
    HF_ENDPOINT: hub,
  };
  return Object.fromEntries(Object.entries(entries).flatMap(([key, value]) => (value ? [[key, value]] : [])));
}
type Setting = "ENODIA_LOG_LEVEL" | "ENODIA_OTLP_ENDPOINT" | "ENODIA_TRACE_RATIO" | "ENODIA_NATS_URL" | "ENODIA_NATS_CREDS" | "HF_ENDPOINT";
/** Any process that knows the ConfigMap's name can use these. */
export const settingRefs =
  <Facts extends Pick<ProcessFacts, "settingsMap">>() =>
  (variable: Setting) =>
  (facts: Facts) => ({ configMap: facts.settingsMap, key: variable });
const setting = settingRefs<ProcessFacts>();
const { rendered, leftToTemplate, fixed } = rowsFrom<ProcessFacts>();
const { name, uid, path, whole, port, bytes, texts, optional, json } = settings;

/** Undefined for a deployment with its own server. */
const ownNats = ({ deployment }: ProcessFacts): string | undefined => deployment.spec.telemetry.nats.url;

const common = {
  namespace: rendered("ENODIA_NAMESPACE", name, ({ deployment }) => deployment.metadata.namespace),
  deployment: rendered("ENODIA_DEPLOYMENT", name, ({ deployment }) => deployment.metadata.name),
  deploymentUid: rendered("ENODIA_DEPLOYMENT_UID", uid, ({ deployment }) => deployment.metadata.uid),
  podName: rendered("ENODIA_POD_NAME", name, () => ({ fieldPath: "metadata.name" })),
  podUid: rendered("ENODIA_POD_UID", uid, () => ({ fieldPath: "metadata.uid" })),
  podIp: rendered("ENODIA_POD_IP", optional(z.string().max(64)), () => ({ fieldPath: "status.podIP" })),
  servedName: rendered("ENODIA_SERVED_NAME", name, ({ deployment }) => deployment.spec.model.servedName ?? deployment.metadata.name),
  /** Peers that answer for membership and plan while the operator is away; unset = none. */
  peersDns: rendered("ENODIA_PEERS_DNS", optional(z.string().max(253)), ({ peersDns }) => peersDns),
  tlsDir: rendered("ENODIA_TLS_DIR", z.string().default(paths.tls), () => paths.tls),
  grpcPort: rendered("ENODIA_GRPC_PORT", port.default(ports.grpc), () => String(ports.grpc)),
  metricsPort: rendered("ENODIA_METRICS_PORT", port.default(ports.metrics), () => String(ports.metrics)),
  probePort: rendered("ENODIA_PROBE_PORT", port.default(ports.probes), () => String(ports.probes)),
  maxContext: rendered("ENODIA_MAX_CONTEXT", whole(1, 1_048_576), ({ deployment }) => String(deployment.spec.runtime.maxContext)),
  logLevel: rendered("ENODIA_LOG_LEVEL", z.enum(logLevels).default(defaultLogLevel), setting("ENODIA_LOG_LEVEL")),
  otlpEndpoint: rendered("ENODIA_OTLP_ENDPOINT", optional(z.url()), setting("ENODIA_OTLP_ENDPOINT")),
  traceRatio: rendered("ENODIA_TRACE_RATIO", optional(z.coerce.number<string>().min(0).max(1)), setting("ENODIA_TRACE_RATIO")),
};

export const modelVolume = "models";

const modelPath = ({ modelFolder }: ProcessFacts): string => `${paths.models}/${modelFolder}`;

export const workerProcess = {
  ...common,
  /** A folder below the mounted claim, or an absolute path outside of a pod. */
  modelDir: rendered(
    "ENODIA_MODEL_PATH",
    path.transform((text) => (text.startsWith("/") ? text : `${paths.models}/${text}`)),
    modelPath,
  ),
  /** Fills that folder; unset = the model is there. */
  weightServerDns: rendered("ENODIA_WEIGHT_SERVER_DNS", optional(z.string().max(253)), ({ weightServerDns }) => weightServerDns),
  /** The port for frames of other ranks. */
  enginePort: rendered("ENODIA_ENGINE_PORT", port.default(ports.engine), () => String(ports.engine)),
  rank: rendered("ENODIA_RANK", whole(0, 4095), () => ({ fieldPath: `metadata.labels['${labels.rank}']` })),
  // glibc then maps expert weights (1 MiB and more) separately, so that released memory leaves the container.
  mappedFrom: fixed("MALLOC_MMAP_THRESHOLD_", "1048576"),
  arenas: fixed("MALLOC_ARENA_MAX", "2"),
  backend: rendered("ENODIA_BACKEND", z.enum(backendChoices).default(defaultBackend), ({ deployment }) => deployment.spec.runtime.backend),
  codec: rendered("ENODIA_EXPERT_CODEC", z.enum(codecNames), ({ deployment }) => deployment.spec.runtime.expertCodec),
  /** 0 = by itself (crds/rank-memory.ts). */
  kvPoolBytes: rendered("ENODIA_KV_POOL_BYTES", bytes, ({ deployment }) => {
    const { kvPool } = deployment.spec.runtime;
    return kvPool === undefined ? "0" : String(parseQuantity(kvPool, "spec.runtime.kvPool"));
  }),
  kvType: rendered("ENODIA_KV_TYPE", optional(z.enum(kvTypes)), ({ deployment }) => deployment.spec.runtime.kvType),
  /** Host memory for keys and values that leave the pool, and the disk behind it; 0 = none. */
  kvOffloadBytes: rendered("ENODIA_KV_OFFLOAD_BYTES", bytes.default(0), ({ deployment }) => {
    const kept = offloadBytes(deployment.spec.runtime);
    return kept === 0 ? undefined : String(kept);
  }),
  kvDiskBytes: rendered("ENODIA_KV_DISK_BYTES", bytes.default(0), ({ deployment }) => {
    const { disk } = deployment.spec.runtime.kvOffload ?? {};
    return disk === undefined ? undefined : String(parseQuantity(disk, "spec.runtime.kvOffload.disk"));
  }),
  kvDiskDir: leftToTemplate("ENODIA_KV_DISK_DIR", path.default(paths.kvDisk)),
  maxBatchTokens: rendered("ENODIA_MAX_BATCH_TOKENS", optional(whole(16, 4096)), ({ deployment }) =>
    deployment.spec.runtime.maxBatchTokens?.toString(),
  ),
  maxDecodeBatch: rendered("ENODIA_MAX_DECODE_BATCH", whole(1, 64).default(64), ({ deployment }) =>
    String(deployment.spec.runtime.maxDecodeBatch),
  ),
  decodeWaitMs: rendered("ENODIA_DECODE_WAIT_MS", whole(1, 3_600_000).default(20), ({ deployment }) =>
    String(parseDuration(deployment.spec.runtime.decodeWait, "spec.runtime.decodeWait")),
  ),
  prefillParallelism: rendered("ENODIA_PREFILL_PARALLELISM", whole(1, 64).default(1), ({ deployment }) =>
    String(deployment.spec.runtime.prefillParallelism),
  ),
  devices: rendered("ENODIA_DEVICES", whole(1, 16).default(1), ({ deployment }) => String(deployment.spec.runtime.devices)),
  /** Unset = experts lie on the device alone. */
  deviceExpertBytes: rendered("ENODIA_DEVICE_EXPERT_BYTES", optional(bytes), ({ deployment }) => {
    const { deviceExpertMemory } = deployment.spec.runtime;
    return deviceExpertMemory === undefined ? undefined : String(parseQuantity(deviceExpertMemory, "spec.runtime.deviceExpertMemory"));
  }),
  /** Unset = all dense weights stay on the device. */
  deviceDenseBytes: rendered("ENODIA_DEVICE_DENSE_BYTES", optional(bytes), ({ deployment }) => {
    const { deviceDenseMemory } = deployment.spec.runtime;
    return deviceDenseMemory === undefined ? undefined : String(parseQuantity(deviceDenseMemory, "spec.runtime.deviceDenseMemory"));
  }),
  draftTokens: rendered("ENODIA_DRAFT_TOKENS", whole(0, 16).default(0), ({ deployment }) => String(deployment.spec.runtime.draftTokens)),
  /** 0 = all that the container limit leaves beside dense part, KV pool and 15%. */
  expertBudgetBytes: rendered("ENODIA_EXPERT_BUDGET_BYTES", bytes, ({ deployment }) => {
    const { memoryPerRank } = deployment.spec.experts;
    return memoryPerRank === undefined ? "0" : String(parseQuantity(memoryPerRank, "spec.experts.memoryPerRank"));
  }),
  /** Allow: the rank serves more than its budget holds. */
  oversubscription: rendered(
    "ENODIA_EXPERT_OVERSUBSCRIPTION",
    z.enum(oversubscriptionModes).default(defaultOversubscription),
    ({ deployment }) => {
      const { oversubscription } = deployment.spec.experts;
      return oversubscription === defaultOversubscription ? undefined : oversubscription;
    },
  ),
  minGatePercent: rendered("ENODIA_MIN_GATE_PERCENT", whole(0, 100).default(0), ({ deployment }) => {
    const { minGatePercent } = deployment.spec.experts;
    return minGatePercent === 0 ? undefined : String(minGatePercent);
  }),
  prefetch: rendered("ENODIA_EXPERT_PREFETCH", z.enum(prefetchModes).default(defaultPrefetch), ({ deployment }) => {
    const { prefetch, oversubscription } = deployment.spec.experts;
    return prefetch === defaultPrefetch || oversubscription === defaultOversubscription ? undefined : prefetch;
  }),
  threads: leftToTemplate("ENODIA_THREADS", optional(whole(1, 1024))),
  /** Unset outside of pods. */
  wholeCpus: rendered("ENODIA_WHOLE_CPUS", optional(whole(0, 65_536)), ({ deployment }) =>
    String(wholeCpus(deployment.spec.podTemplate, "runtime")),
  ),
  natsUrl: rendered("ENODIA_NATS_URL", optional(z.string().max(1024)), (facts) => ownNats(facts) ?? setting("ENODIA_NATS_URL")(facts)),
  natsCreds: rendered("ENODIA_NATS_CREDS", optional(path), (facts) => {
    if (facts.deployment.spec.telemetry.nats.credentialsSecretRef) return paths.telemetry;
    return ownNats(facts) === undefined ? setting("ENODIA_NATS_CREDS")(facts) : undefined;
  }),
  /** Keys that sign load messages; without it the worker sends none. */
  telemetryKeys: rendered("ENODIA_TELEMETRY_KEYS", optional(path), () => `${paths.telemetry}/${telemetrySecretEntries.keys}`),
  natsPrefix: rendered(
    "ENODIA_NATS_PREFIX",
    z
      .string()
      .regex(/^[\w-]+$/)
      .default("enodia"),
    ({ deployment }) => deployment.spec.telemetry.nats.subjectPrefix,
  ),
  telemetryWindowMs: rendered("ENODIA_TELEMETRY_WINDOW_MS", whole(250, 3_600_000).default(15_000), ({ deployment }) =>
    String(loadSampleMs(parseDuration(deployment.spec.rebalancing.trigger.window, "spec.rebalancing.trigger.window"))),
  ),
};
export type WorkerSettings = SettingsOf<typeof workerProcess>;

/** Seconds. */
export const graceSecondsBounds = { min: 1, max: 31_536_000 } as const;

/** The template does not contain these, so a changed value restarts no pod. */
export const workerLifetime = {
  graceSeconds: rowsFrom<{ readonly graceSeconds: number }>().rendered(
    "ENODIA_GRACE_SECONDS",
    whole(graceSecondsBounds.min, graceSecondsBounds.max).default(60),
    ({ graceSeconds }) => String(graceSeconds),
  ),
};
export type WorkerLifetime = SettingsOf<typeof workerLifetime>;

export const gatewayProcess = {
  ...common,
  // glibc then gives the memory of bodies back, and of what is read of a socket at once (64 KiB).
  mappedFrom: fixed("MALLOC_MMAP_THRESHOLD_", "65536"),
  arenas: fixed("MALLOC_ARENA_MAX", "2"),
  textDir: leftToTemplate("ENODIA_TEXT_DIR", path.default(paths.text)),
  httpPort: rendered("ENODIA_HTTP_PORT", port.default(ports.http), () => String(ports.http)),
  apiKeyFile: rendered("ENODIA_API_KEY_FILE", optional(path), ({ deployment }) =>
    deployment.spec.gateway.apiKeySecretRef ? paths.apiKey : undefined,
  ),
  /** An issuer as JSON; unset = API keys only. */
  jwt: rendered(
    "ENODIA_JWT",
    optional(json.pipe(gatewayJwt)),
    ({ deployment: { spec } }) => spec.gateway.jwt && JSON.stringify(spec.gateway.jwt),
  ),
  /** Unset = HTTP. */
  httpTlsDir: rendered("ENODIA_HTTP_TLS_DIR", optional(path), ({ deployment }) =>
    deployment.spec.gateway.tls ? paths.httpTls : undefined,
  ),
  /** Commas separate the origins. */
  corsOrigins: rendered("ENODIA_CORS_ORIGINS", optional(texts(16_384)), ({ deployment }) =>
    deployment.spec.gateway.cors?.allowOrigins.join(","),
  ),
  /** JSON. */
  clients: rendered(
    "ENODIA_CLIENTS",
    optional(json.pipe(z.array(gatewayClient))),
    ({ deployment: { spec } }) => spec.gateway.clients && JSON.stringify(spec.gateway.clients),
  ),
  /** Unset = Ignore. */
  unknownFields: rendered("ENODIA_UNKNOWN_FIELDS", optional(z.enum(unknownFieldsModes)), ({ deployment: { spec } }) =>
    spec.gateway.unknownFields === "Refuse" ? "Refuse" : undefined,
  ),
  /** Unset = the default. */
  routing: rendered("ENODIA_ROUTING", optional(z.enum(routingPolicyNames)), ({ deployment: { spec } }) =>
    spec.gateway.routing === defaultRoutingPolicy ? undefined : spec.gateway.routing,
  ),
  prefixIsolation: rendered("ENODIA_PREFIX_ISOLATION", optional(z.stringbool()), ({ deployment: { spec } }) =>
    spec.gateway.prefixIsolation ? "true" : undefined,
  ),
  queueRequestsMax: leftToTemplate("ENODIA_QUEUE_REQUESTS_MAX", optional(whole(1, 1_000_000))),
};
export type GatewaySettings = SettingsOf<typeof gatewayProcess>;

type Amounts = Readonly<Record<string, unknown>> | undefined;

/**
 * A worker's exclusive CPUs under a static CPU manager, which a process cannot tell from a shared pool. 0 without: the kubelet grants whole
 * CPUs only in pods whose containers all have limits and equal requests.
 */
export function wholeCpus(
  template: { readonly spec?: Readonly<Record<string, unknown>> | undefined } | undefined,
  container: string,
): number {
  const { containers = [], initContainers = [] } = (template?.spec ?? {}) as Record<string, readonly Readonly<Record<string, unknown>>[]>;
  const own = containers.find(({ name }) => name === container);
  if (own === undefined || ![...containers, ...initContainers].every(isGuaranteed)) return 0;
  const cpus = amount(amountsOf(own, "limits"), "cpu") as number;
  return Number.isInteger(cpus) ? cpus : 0;
}

function isGuaranteed(container: Readonly<Record<string, unknown>>): boolean {
  const [limits, requests] = [amountsOf(container, "limits"), amountsOf(container, "requests")];
  return (Object.keys(amounts) as Resource[]).every((name) => {
    const limit = amount(limits, name);
    return limit !== undefined && (requests?.[name] === undefined || amount(requests, name) === limit);
  });
}

const amountsOf = ({ resources }: Readonly<Record<string, unknown>>, kind: "limits" | "requests"): Amounts =>
  (resources as Readonly<Record<string, Amounts>> | undefined)?.[kind];

type Resource = keyof typeof amounts;

const amounts = {
  cpu(text: string): number | undefined {
    const [, number, milli] = /^([0-9]+(?:\.[0-9]+)?)(m?)$/.exec(text) ?? [];
    return number === undefined ? undefined : Number(number) / (milli ? 1000 : 1);
  },
  memory: (text: string): number => parseQuantity(text, "memory"),
} as const;

/** Undefined for an invalid quantity, which the API server refuses. */
function amount(of: Amounts, name: Resource): number | undefined {
  const value = of?.[name];
  if (typeof value !== "string" && typeof value !== "number") return undefined;
  try {
    return amounts[name](`${value}`);
  } catch {
    return undefined;
  }
}
