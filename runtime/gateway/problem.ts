// OpenAI's error bodies, {"error": {message, type, param, code}}, with a status. Internal causes never reach a client.
import type { z } from "zod";
import { AppError } from "../../crds/common.ts";
import type { RequestRefusal } from "../../crds/names.ts";

export interface Problem {
  readonly status: 400 | 401 | 404 | 405 | 408 | 413 | 422 | 429 | 500 | 503;
  readonly message: string;
  readonly type: "invalid_request_error" | "rate_limit_error" | "service_unavailable" | "server_error";
  readonly code: string | null;
  readonly param: string | null;
  readonly retryAfterSeconds?: number;
  /** A 401's WWW-Authenticate after `Bearer`. */
  readonly challenge?: string;
}

const quotaCode = "rate_limit_exceeded";
const issuerAwayCode = "issuer_unavailable";
const bodiesFullCode = "bodies_full";

export function problemBody(problem: Problem): object {
  const { message, type, code, param } = problem;
  return { error: { message, type, param, code } };
}

export function rejectReason(problem: Problem): RequestRefusal {
  if (problem.status === 401) return "unauthorized";
  if (problem.status === 408) return "slow_body";
  if (problem.status === 413) return "too_large";
  if (problem.status === 429) return problem.code === quotaCode ? "quota" : "queue_full";
  if (problem.code === bodiesFullCode) return "bodies_full";
  if (problem.status === 503) return problem.code === issuerAwayCode ? "issuer_away" : "no_worker";
  return problem.code === "context_length_exceeded" ? "context_length" : "invalid";
}

export function invalid(message: string, param: string | null = null, code: string | null = null): Problem {
  return { status: 400, type: "invalid_request_error", message, param, code };
}

export const problems = {
  /** `wanted`: accepted credentials. */
  unauthorized: ({ apiKey, issuer }: { readonly apiKey: boolean; readonly issuer: string | undefined }): Problem => {
    const token = issuer === undefined ? undefined : `token of ${issuer}`;
    const credentials = [...(apiKey ? ["API key"] : []), ...(token ? [token] : [])].join(" or ");
    const form = apiKey ? "<key>" : "<token>";
    return {
      ...invalid(`Missing or wrong ${credentials}: send it as \`Authorization: Bearer ${form}\`.`, null, "invalid_api_key"),
      status: 401,
    };
  },
  badToken: (message: string): Problem => {
    const description = message.replace(/[^ !#-[\]-~]/g, "'"); // the characters that RFC 6750 allows
    return {
      ...invalid(message, null, "invalid_token"),
      status: 401,
      challenge: `error="invalid_token", error_description="${description}"`,
    };
  },
  issuerAway: (retryAfterSeconds: number): Problem => ({
    status: 503,
    type: "service_unavailable",
    message: "Tokens cannot be checked now: the keys of their issuer are not known. Try again later.",
    param: null,
    code: issuerAwayCode,
    retryAfterSeconds,
  }),
  notFound: (path: string): Problem => ({
    ...invalid(
      `Unknown path ${path.slice(0, 200)}: /v1/models, /v1/chat/completions, /v1/completions, /v1/responses and /v1/embeddings are served.`,
      null,
      "unknown_url",
    ),
    status: 404,
  }),
  method: (allowed: string): Problem => ({ ...invalid(`Use ${allowed} for this path.`, null, "method_not_allowed"), status: 405 }),
  tooLarge: (limitBytes: number): Problem => ({
    ...invalid(`The request body is above ${limitBytes} bytes: send less text.`, null, "request_too_large"),
    status: 413,
  }),
  bodiesFull: (retryAfterSeconds: number): Problem => ({
    status: 503,
    type: "service_unavailable",
    message: "This gateway reads as many bytes of requests as it may: try again later.",
    param: null,
    code: bodiesFullCode,
    retryAfterSeconds,
  }),
  slowBody: (): Problem => ({ ...invalid("The request body came too slowly: send it again.", null, "request_timeout"), status: 408 }),
  keyReused: (): Problem => ({
    ...invalid(
      "`Idempotency-Key`: another request was sent with this key less than a minute ago: repeat that one, or use a new key.",
      "Idempotency-Key",
      "idempotency_key_reused",
    ),
    status: 422,
  }),
  noResponse: (id: string): Problem => ({
    ...invalid(
      `No response \`${id.slice(0, 64)}\` is kept for this key: streamed ones are for 60 s, while there is room.`,
      "id",
      "response_not_found",
    ),
    status: 404,
  }),
  unknownModel: (requested: string, served: string): Problem => ({
    ...invalid(`The model \`${requested.slice(0, 200)}\` does not exist here: use \`${served}\`.`, "model", "model_not_found"),
    status: 404,
  }),
  queueFull: (retryAfterSeconds: number): Problem => ({
    status: 429,
    type: "rate_limit_error",
    message: "All workers and the queue are full: try again later.",
    param: null,
    code: "queue_full",
    retryAfterSeconds,
  }),
  promptLogprobsFull: (retryAfterSeconds: number): Problem => ({
    ...problems.queueFull(retryAfterSeconds),
    message: "This gateway holds as many log-probabilities of prompts as it may: try again later, or ask for fewer top log-probabilities.",
  }),
  quota: (client: string, limit: string, retryAfterSeconds: number): Problem => ({
    status: 429,
    type: "rate_limit_error",
    message: `Client ${client} may have ${limit} at this gateway: try again in ${retryAfterSeconds} s.`,
    param: null,
    code: quotaCode,
    retryAfterSeconds,
  }),
  noWorker: (why: string, retryAfterSeconds: number): Problem => ({
    status: 503,
    type: "service_unavailable",
    message: `No worker can take this request: ${why}. Try again later.`,
    param: null,
    code: "no_worker",
    retryAfterSeconds,
  }),
  heldFull: (retryAfterSeconds: number): Problem =>
    problems.noWorker("the deployment is scaled to zero, and this gateway holds as many requests for it as it may", retryAfterSeconds),
  deadline: (seconds: number): Problem => ({
    status: 503,
    type: "service_unavailable",
    message: `The request was not finished within ${seconds} s.`,
    param: null,
    code: "deadline_exceeded",
  }),
  unusableLogits: (message: string): Problem => ({
    status: 500,
    type: "server_error",
    message: `The model gave no usable numbers: ${message}.`,
    param: null,
    code: "unusable_logits",
  }),
  internal: (requestId: string): Problem => ({
    status: 500,
    type: "server_error",
    message: `Internal error; the log names it under request ${requestId}.`,
    param: null,
    code: "internal_error",
  }),
} as const;

/** The client's view of an error that ended an accepted request. */
export function problemOf(caught: unknown, requestId: string): Problem {
  const error = AppError.from(caught);
  const retryAfterSeconds = typeof error.retry === "object" ? Math.max(1, Math.ceil(error.retry.afterMs / 1000)) : 1;
  if (error.code === "QueueFull") return problems.queueFull(retryAfterSeconds);
  if (error.code === "NoWorker") return problems.noWorker(error.message, retryAfterSeconds);
  if (error.code === "DeadlineExceeded") return { ...problems.deadline(0), message: error.message };
  if (error.code === "ContextOverflow") return invalid(error.message, "messages", "context_length_exceeded");
  if (error.code === "UnusableLogits") return problems.unusableLogits(error.message);
  if (error.code === "KeyReused") return problems.keyReused();
  if (error.code === "InvalidRequest") return invalid(error.message);
  return problems.internal(requestId);
}

/** zod's first issue as a message, with a path that OpenAI clients know (`messages[0].content`). */
export function problemOfIssue(error: z.ZodError): Problem {
  const issue = firstIssue(error.issues);
  if (issue === undefined) return invalid("The request is not valid.");
  if (issue.code === "unrecognized_keys") {
    const param = pathText([...issue.path, issue.keys[0] ?? ""]);
    return invalid(`Unsupported field \`${param.slice(0, 200)}\`: remove it.`, param, "unsupported_parameter");
  }
  const param = pathText(issue.path);
  return invalid(
    param === "" ? `The body: ${issue.message}.` : `\`${param}\`: ${issue.message}.`,
    param === "" ? null : param,
    "invalid_value",
  );
}

// A union reports the branch with the right type, then the deepest issue.
function firstIssue(issues: readonly z.core.$ZodIssue[]): z.core.$ZodIssue | undefined {
  const issue = issues[0];
  if (issue?.code !== "invalid_union" || issue.errors.length === 0) return issue;
  const branches = issue.errors.map((branch) => firstIssue(branch)).filter((branch) => branch !== undefined);
  const best = branches.sort((a, b) => telling(b) - telling(a))[0];
  return best === undefined || telling(best) === 0 ? issue : { ...best, path: [...issue.path, ...best.path] };
}

function telling(issue: z.core.$ZodIssue): number {
  return issue.path.length + (issue.code === "invalid_type" ? 0 : 0.5 + (issue.path.length === 0 ? 1 : 0));
}

function pathText(path: readonly PropertyKey[]): string {
  return path.map((key, i) => (typeof key === "number" ? `[${key}]` : i === 0 ? String(key) : `.${String(key)}`)).join("");
}
