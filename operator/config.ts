// Parses environment and flags of the operator.
import { parseArgs } from "node:util";
import { z } from "zod";
import { AppError, ports } from "../crds/common.ts";
import {
  defaultLogLevel,
  type OperatorLogLevel,
  operatorLogLevels,
  type PageAccess,
  type PullPolicy,
  pageAccesses,
  pullPolicies,
} from "../crds/names.ts";
import type { OwnNats } from "../crds/nats-access.ts";

const optional = z
  .string()
  .optional()
  .transform((text) => (text === "" ? undefined : text));

const port = z.coerce.number().int().min(0).max(65_535);

const names = z
  .string()
  .default("")
  .transform((text) =>
    text
      .split(",")
      .map((one) => one.trim())
      .filter((one) => one !== ""),
  );

const schema = z.object({
  ENODIA_NAMESPACE: z.string().min(1).default("enodia-system"),
  ENODIA_INSTALL: z.string().min(1).max(50).default("enodia"),
  ENODIA_POD_NAME: optional,
  ENODIA_RUNTIME_IMAGE: z.string().min(1).default("enodia/runtime:dev"),
  ENODIA_TRAINING_IMAGE: z.string().min(1).default("enodia/training:dev"),
  ENODIA_RUNTIME_PULL_POLICY: z.enum(pullPolicies).default("IfNotPresent"),
  ENODIA_LOG_LEVEL: z.enum(operatorLogLevels).default(defaultLogLevel),
  ENODIA_NATS_URL: optional,
  ENODIA_NATS_CREDS: optional,
  ENODIA_NATS_SECRETS: optional,
  ENODIA_OTLP_ENDPOINT: optional,
  HF_ENDPOINT: optional.pipe(z.url({ protocol: /^https?$/ }).optional()),
  ENODIA_TRACE_RATIO: optional.pipe(z.coerce.number<string>().min(0).max(1).optional()),
  ENODIA_NETWORK_POLICIES: z
    .enum(["true", "false"])
    .default("false")
    .transform((text) => text === "true"),
  ENODIA_WATCH_NAMESPACES: names,
  ENODIA_NAMESPACE_ROLE: optional,
  ENODIA_SERVICE_ACCOUNT: z.string().min(1).default("enodia"),
  ENODIA_METRICS_PORT: port.default(ports.metrics),
  ENODIA_PROBE_PORT: port.default(ports.probes),
  ENODIA_PAGE_ACCESS: optional.pipe(z.enum(pageAccesses).optional()),
  ENODIA_PAGE_PORT: port.default(ports.page),
  ENODIA_PAGE_TOKEN: z.string().min(1).default("/etc/enodia/page/token"),
  ENODIA_PAGE_NAMESPACES: names,
});

interface PageConfig {
  readonly access: PageAccess;
  readonly port: number;
  /** The token of access Token. */
  readonly tokenFile: string;
  /** Namespaces on the page; empty = all. */
  readonly namespaces: readonly string[];
}

export interface OperatorConfig extends OwnNats {
  readonly namespace: string;
  /** The install's name, the same for all replicas. */
  readonly install: string;
  readonly identity: string;
  readonly runtimeImage: string;
  readonly trainingImage: string;
  readonly pullPolicy: PullPolicy;
  readonly logLevel: OperatorLogLevel;
  readonly otlpEndpoint: string | undefined;
  /** Hub of hf:// models, by Hugging Face's variable. */
  readonly hub: string | undefined;
  /** Sampled fraction of traces; undefined = all. */
  readonly traceRatio: number | undefined;
  readonly networkPolicies: { readonly operatorNamespace: string } | undefined;
  readonly watchNamespaces: readonly string[];
  /** Set where owners of namespaces grant the operator's rights. */
  readonly grantee: { readonly role: string; readonly operator: string } | undefined;
  readonly metricsPort: number;
  readonly probePort: number;
  /** Undefined without a page. */
  readonly page: PageConfig | undefined;
  readonly kubeconfig: string | undefined;
  readonly context: string | undefined;
}

/** `identity` of a process outside a pod must be unique. */
export function readConfig(env: Readonly<Record<string, string | undefined>>, args: readonly string[], identity: string): OperatorConfig {
  const parsed = schema.safeParse(env);
  if (!parsed.success)
    throw new AppError(`environment: ${z.prettifyError(parsed.error)}`, { code: "InvalidConfig", operation: "reading the environment" });
  const flags = readFlags(args);
  const e = parsed.data;
  return {
    namespace: e.ENODIA_NAMESPACE,
    install: e.ENODIA_INSTALL,
    identity: e.ENODIA_POD_NAME ?? identity,
    runtimeImage: e.ENODIA_RUNTIME_IMAGE,
    trainingImage: e.ENODIA_TRAINING_IMAGE,
    pullPolicy: e.ENODIA_RUNTIME_PULL_POLICY,
    logLevel: e.ENODIA_LOG_LEVEL,
    natsUrl: e.ENODIA_NATS_URL,
    natsCreds: e.ENODIA_NATS_CREDS,
    natsSecrets: e.ENODIA_NATS_SECRETS,
    otlpEndpoint: e.ENODIA_OTLP_ENDPOINT,
    hub: e.HF_ENDPOINT,
    traceRatio: e.ENODIA_TRACE_RATIO,
    networkPolicies: e.ENODIA_NETWORK_POLICIES ? { operatorNamespace: e.ENODIA_NAMESPACE } : undefined,
    watchNamespaces: e.ENODIA_WATCH_NAMESPACES,
    grantee: e.ENODIA_NAMESPACE_ROLE
      ? { role: e.ENODIA_NAMESPACE_ROLE, operator: `${e.ENODIA_NAMESPACE}/${e.ENODIA_SERVICE_ACCOUNT}` }
      : undefined,
    metricsPort: e.ENODIA_METRICS_PORT,
    probePort: e.ENODIA_PROBE_PORT,
    page: e.ENODIA_PAGE_ACCESS && {
      access: e.ENODIA_PAGE_ACCESS,
      port: e.ENODIA_PAGE_PORT,
      tokenFile: e.ENODIA_PAGE_TOKEN,
      namespaces: e.ENODIA_PAGE_NAMESPACES,
    },
    kubeconfig: flags.kubeconfig,
    context: flags.context,
  };
}

function readFlags(args: readonly string[]): { kubeconfig?: string | undefined; context?: string | undefined } {
  try {
    return parseArgs({ args: [...args], options: { kubeconfig: { type: "string" }, context: { type: "string" } } }).values;
  } catch (cause) {
    throw new AppError(`${(cause as Error).message}. Flags: --kubeconfig FILE --context NAME`, {
      code: "InvalidConfig",
      operation: "reading flags",
      cause,
    });
  }
}
