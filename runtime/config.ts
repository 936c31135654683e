// The environment of runtime processes, parsed once at start: names, defaults and bounds. The operator renders these
// variables; nothing else in runtime/ reads the environment.
import { isAbsolute, join } from "node:path";
import { z } from "zod";
import { AppError, paths, ports } from "../crds/common.ts";

const name = z.string().min(1).max(253);
const port = z.coerce.number().int().min(0).max(65535);
const bytes = z.coerce.number().int().min(0).max(Number.MAX_SAFE_INTEGER);
/** The operator may render an unset option as an empty string. */
const optional = <T extends z.ZodType>(schema: T) => z.preprocess((value) => (value === "" ? undefined : value), schema.optional());

const common = z.object({
  ENODIA_NAMESPACE: name,
  ENODIA_DEPLOYMENT: name,
  ENODIA_DEPLOYMENT_UID: z.string().min(1).max(64),
  ENODIA_POD_NAME: name,
  ENODIA_POD_UID: z.string().min(1).max(64),
  ENODIA_POD_IP: optional(z.string().max(64)),
  ENODIA_SERVED_NAME: z.string().min(1).max(253),
  ENODIA_MODEL_PATH: z.string().max(1024),
  ENODIA_PEERS_DNS: optional(z.string().max(253)),
  ENODIA_TLS_DIR: z.string().default(paths.tls),
  ENODIA_GRPC_PORT: port.default(ports.grpc),
  ENODIA_METRICS_PORT: port.default(ports.metrics),
  ENODIA_MAX_CONTEXT: z.coerce.number().int().min(1).max(1_048_576),
  ENODIA_LOG_LEVEL: z.enum(["trace", "debug", "info", "warn", "error", "silent"]).default("info"),
  ENODIA_OTLP_ENDPOINT: optional(z.url()),
});

const worker = common.extend({
  ENODIA_RANK: z.coerce.number().int().min(0).max(4095),
  ENODIA_BACKEND: z.enum(["Auto", "cpu", "webgpu", "reference"]).default("Auto"),
  ENODIA_EXPERT_CODEC: z.enum(["int4", "f32"]),
  ENODIA_KV_POOL_BYTES: bytes,
  ENODIA_EXPERT_BUDGET_BYTES: bytes,
  ENODIA_THREADS: optional(z.coerce.number().int().min(1).max(1024)),
  ENODIA_NATS_URL: optional(z.string().max(1024)),
  ENODIA_NATS_CREDS: optional(z.string().max(1024)),
  ENODIA_NATS_PREFIX: z
    .string()
    .regex(/^[\w-]+$/)
    .default("enodia"),
  ENODIA_TELEMETRY_WINDOW_MS: z.coerce.number().int().min(250).max(3_600_000).default(15_000),
});

const gateway = common.extend({
  ENODIA_HTTP_PORT: port.default(ports.http),
  ENODIA_API_KEY_FILE: optional(z.string().max(1024)),
  ENODIA_QUEUE_REQUESTS_MAX: optional(z.coerce.number().int().min(1).max(1_000_000)),
});

type Environment = Readonly<Record<string, string | undefined>>;

export function parseWorkerConfig(env: Environment) {
  const e = parse(worker, env);
  return {
    ...commonConfig(e),
    rank: e.ENODIA_RANK,
    backend: e.ENODIA_BACKEND,
    codec: e.ENODIA_EXPERT_CODEC,
    kvPoolBytes: e.ENODIA_KV_POOL_BYTES,
    expertBudgetBytes: e.ENODIA_EXPERT_BUDGET_BYTES,
    threads: e.ENODIA_THREADS,
    natsUrl: e.ENODIA_NATS_URL,
    natsCreds: e.ENODIA_NATS_CREDS,
    natsPrefix: e.ENODIA_NATS_PREFIX,
    telemetryWindowMs: e.ENODIA_TELEMETRY_WINDOW_MS,
  };
}

export function parseGatewayConfig(env: Environment) {
  const e = parse(gateway, env);
  return {
    ...commonConfig(e),
    httpPort: e.ENODIA_HTTP_PORT,
    apiKeyFile: e.ENODIA_API_KEY_FILE,
    queueRequestsMax: e.ENODIA_QUEUE_REQUESTS_MAX,
  };
}

function commonConfig(e: z.infer<typeof common>) {
  return {
    namespace: e.ENODIA_NAMESPACE,
    deployment: e.ENODIA_DEPLOYMENT,
    deploymentUid: e.ENODIA_DEPLOYMENT_UID,
    podName: e.ENODIA_POD_NAME,
    podUid: e.ENODIA_POD_UID,
    podIp: e.ENODIA_POD_IP,
    servedName: e.ENODIA_SERVED_NAME,
    /** A folder below the mounted claim, or an absolute path when run outside of a pod. */
    modelDir: isAbsolute(e.ENODIA_MODEL_PATH) ? e.ENODIA_MODEL_PATH : join(paths.models, e.ENODIA_MODEL_PATH),
    peersDns: e.ENODIA_PEERS_DNS,
    tlsDir: e.ENODIA_TLS_DIR,
    grpcPort: e.ENODIA_GRPC_PORT,
    metricsPort: e.ENODIA_METRICS_PORT,
    maxContext: e.ENODIA_MAX_CONTEXT,
    logLevel: e.ENODIA_LOG_LEVEL,
    otlpEndpoint: e.ENODIA_OTLP_ENDPOINT,
  };
}

function parse<T extends z.ZodType>(schema: T, env: Environment): z.infer<T> {
  const parsed = schema.safeParse(env);
  if (parsed.success) return parsed.data;
  throw new AppError(`environment: ${z.prettifyError(parsed.error)}`, { code: "InvalidConfig", operation: "reading the environment" });
}
