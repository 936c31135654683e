// Names of labels, ports and paths that all planes share, the error class, and the words of what was caught.

export const apiGroup = "enodia.dev";
export const apiVersion = `${apiGroup}/v1alpha1`;

/** Selectors use deployment + component only, except where a green deployment's gateways get clients. */
export const labels = {
  deployment: `${apiGroup}/deployment`,
  component: `${apiGroup}/component`,
  rank: `${apiGroup}/rank`,
  /** Training pods have this instead of a deployment label. */
  trainingJob: `${apiGroup}/training-job`,
  /** A green deployment's owner. */
  greenOf: `${apiGroup}/green-of`,
  /** The deployment whose clients a gateway pod may get, green or not. */
  front: `${apiGroup}/front`,
} as const;

export const annotations = {
  /** The operator replaces a pod whose hash differs. */
  templateHash: `${apiGroup}/template-hash`,
  /** The gang scheduler of a worker pod, if any. */
  gang: `${apiGroup}/gang`,
  /** Id of the rolled-back operation to retry. */
  retryRollout: `${apiGroup}/retry-rollout`,
  /** The time when the autoscaler last set replicas, so that it resumes after somebody else did. */
  resumeAutoscale: `${apiGroup}/resume-autoscale`,
  /** The generation of a training pod's spec. */
  generation: `${apiGroup}/generation`,
  /** URI of a download Job. */
  model: `${apiGroup}/model`,
  /** Claim and path of a gateway's tokenizer. */
  modelPlace: `${apiGroup}/model-place`,
  /** The node that a weight server, a download or a pod of a job is held to. */
  claimNode: `${apiGroup}/claim-node`,
  /** URI of a training pod's result. */
  output: `${apiGroup}/output`,
} as const;

/** Training pods have `ranks` (frames), `world` (orders of the operator) and `trace` (loopback only); download pods have `progress`. */
export const ports = {
  http: 8000,
  grpc: 9440,
  engine: 9441,
  ranks: 9442,
  world: 9443,
  trace: 9444,
  progress: 9445,
  metrics: 9464,
  probes: 9465,
  page: 9466,
} as const;

/** Mount paths in runtime pods. */
export const paths = {
  tls: "/etc/enodia/tls", // tls.crt, tls.key, ca.crt
  models: "/models", // the model is a folder below it
  text: "/tmp/text", // a gateway's text files, fetched from a rank
  claims: "/claims", // of a training pod, by claim name
  modelSecret: "/etc/enodia/model-secret", // keys of spec.model.secretRef
  apiKey: "/etc/enodia/api-key/key",
  httpTls: "/etc/enodia/http-tls",
  kvDisk: "/var/cache/enodia/kv",
  telemetry: "/etc/enodia/telemetry", // signing keys; credentials and ca.crt of NATS
} as const;

/** Keys and values of so many positions move between ranks as one; the last ones of a text end at a multiple of `step`. */
export const movedKv = { tokens: 64, step: 16 } as const;

export const gatewayRank = -1;
export const operatorRank = -2;

const socketCodes: Readonly<Record<string, string>> = {
  ECONNREFUSED: "nothing listens there",
  ECONNRESET: "the connection was reset",
  EPIPE: "the connection was closed",
  ETIMEDOUT: "no answer in time",
  EHOSTUNREACH: "no way to the host",
  ENETUNREACH: "no way to its network",
  ENOTFOUND: "the name is not known",
  EAI_AGAIN: "nobody answers for the name",
};

/** OpenSSL's; the last part is the reason. */
const tlsForm = /error:[0-9A-F]{8}:SSL routines:[^:]*:([^:]+)/;

function tlsWords(text: string): string | undefined {
  const [, reason] = tlsForm.exec(text) ?? [];
  return reason && `TLS failed: ${reason}`;
}

/** What the first code of a socket in a text means, or a failure of TLS; undefined without one. */
export function socketWords(text: string): string | undefined {
  const code = text.match(/\bE[A-Z_]+\b/g)?.find((one) => Object.hasOwn(socketCodes, one));
  return code === undefined ? tlsWords(text) : `${socketCodes[code]} (${code})`;
}

/** `connect ECONNREFUSED 10.0.0.1:443` of the system, also as gRPC repeats it. */
const systemForm = /^(?:\d+ [A-Z_]+: )?(?:\w+ )?(E[A-Z_]+)(?: (\S.*))?$/;

/** The message of anything caught, for conditions and events: the system's words of a connection in ours. */
export function messageOf(caught: unknown): string {
  const { message, code } = caught instanceof Error ? (caught as Error & { readonly code?: unknown }) : { message: String(caught) };
  const text = message === "" ? String(code ?? message) : message;
  const [, name = "", at] = systemForm.exec(text) ?? [];
  if (!Object.hasOwn(socketCodes, name)) return tlsWords(text) ?? text;
  return `${socketCodes[name]} (${name}${at === undefined ? "" : ` ${at}`})`;
}

export type Retry = "never" | "backoff" | { readonly afterMs: number };

export interface AppErrorOptions {
  /** PascalCase, as in conditions and metrics. */
  readonly code: string;
  /** A verb phrase: "reading expert-index.json". */
  readonly operation?: string;
  readonly cause?: unknown;
  readonly retry?: Retry;
}

/** The message names the field and the remedy; `cause` is for logs and never sent. */
export class AppError extends Error {
  readonly code: string;
  readonly operation: string | undefined;
  readonly retry: Retry;

  constructor(message: string, options: AppErrorOptions) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = "AppError";
    this.code = options.code;
    this.operation = options.operation;
    this.retry = options.retry ?? "never";
  }

  /** An AppError passes through unchanged. */
  static from(caught: unknown, operation?: string): AppError {
    if (caught instanceof AppError) return caught;
    if (caught instanceof SuppressedError) return AppError.from(caught.suppressed, operation); // the one behind it came of its cleanup
    const message = messageOf(caught);
    return new AppError(operation ? `${operation}: ${message}` : message, {
      code: "Internal",
      cause: caught,
      retry: "backoff",
      ...(operation ? { operation } : {}),
    });
  }
}
