// Vocabulary every plane shares: names of labels, ports and paths, and the one error class.
// Not here: schemas of objects (their own files) and anything that touches the outside world.

/** API group and version of both kinds. */
export const apiGroup = "enodia.dev";
export const apiVersion = `${apiGroup}/v1alpha1`;

/** Labels on everything the operator owns. Selectors use deployment + component only, but where clients come to a green deployment too. */
export const labels = {
  deployment: `${apiGroup}/deployment`,
  component: `${apiGroup}/component`,
  rank: `${apiGroup}/rank`,
  /** On pods of a MoETrainingJob, which have no label of a deployment. */
  trainingJob: `${apiGroup}/training-job`,
  /** On a MoEDeployment that serves while the one of that name, which owns it, changes its model. */
  greenOf: `${apiGroup}/green-of`,
  /** On gateway pods: the deployment whose clients they may get, also those of its green deployment. */
  front: `${apiGroup}/front`,
} as const;

export const annotations = {
  /** Hash of the rendered pod template; a pod whose value differs is replaced. */
  templateHash: `${apiGroup}/template-hash`,
  /** Who was to start a worker pod together with others, where that is asked for. */
  gang: `${apiGroup}/gang`,
  /** On a MoEDeployment: id of the operation that was rolled back and is to be tried again. */
  retryRollout: `${apiGroup}/retry-rollout`,
  /** On a MoEDeployment: when the autoscaler last set replicas; whatever somebody else has set since, it is to go on from there. */
  resumeAutoscale: `${apiGroup}/resume-autoscale`,
  /** Generation of the spec that a training pod was made for. */
  generation: `${apiGroup}/generation`,
  /** URI of the model that a Job downloads. */
  model: `${apiGroup}/model`,
  /** Claim and path of the model whose tokenizer a gateway has. */
  modelPlace: `${apiGroup}/model-place`,
  /** URI of the folder that a training pod writes. */
  output: `${apiGroup}/output`,
} as const;

/** `ranks`, `world` and `trace` are of training pods: frames of other ranks, what the operator says of who they are, and on loopback alone
 *  where the time of steps goes. `progress` is of pods that download a model. */
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

/** Paths at which the operator mounts things in runtime pods. */
export const paths = {
  tls: "/etc/enodia/tls", // tls.crt, tls.key, ca.crt
  models: "/models", // the claim; the model is a folder below it
  text: "/tmp/text", // of a gateway: tokenizer and chat template, fetched from a rank
  claims: "/claims", // of a training pod: each claim by its name
  modelSecret: "/etc/enodia/model-secret", // of a pod that downloads a model: the keys of spec.model.secretRef
  apiKey: "/etc/enodia/api-key/key",
  httpTls: "/etc/enodia/http-tls", // tls.crt and tls.key, of a gateway that speaks HTTPS
  telemetry: "/etc/enodia/telemetry", // keys; user.creds or token, and ca.crt, of the NATS server
} as const;

/** Ranks of callers that are no workers. */
export const gatewayRank = -1;
export const operatorRank = -2;

export type Retry = "never" | "backoff" | { readonly afterMs: number };

export interface AppErrorOptions {
  /** PascalCase reason, as in conditions and metrics: `ModelNotFound`, `DigestMismatch`. */
  readonly code: string;
  /** The step that failed, as a verb phrase: "reading expert-index.json". */
  readonly operation?: string;
  readonly cause?: unknown;
  readonly retry?: Retry;
}

/** The one error class. The message names the field and the remedy; `cause` is kept for logs and never sent. */
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

  /** Turns anything caught into an AppError; an AppError passes through unchanged. */
  static from(caught: unknown, operation?: string): AppError {
    if (caught instanceof AppError) return caught;
    const message = caught instanceof Error ? caught.message : String(caught);
    return new AppError(operation ? `${operation}: ${message}` : message, {
      code: "Internal",
      cause: caught,
      retry: "backoff",
      ...(operation ? { operation } : {}),
    });
  }
}
