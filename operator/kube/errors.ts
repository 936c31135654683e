// HTTP answers of the API server -> AppError with the codes the Kube port promises. Pure.
import { AppError, type Retry } from "../../crds/common.ts";

const invalid = { code: "Invalid", retry: "never" } as const;
const byStatus: Readonly<Record<number, { code: string; retry: Retry }>> = {
  400: invalid,
  401: { code: "Unauthorized", retry: "backoff" },
  403: { code: "Forbidden", retry: "backoff" },
  404: { code: "NotFound", retry: "never" },
  409: { code: "Conflict", retry: "backoff" },
  410: { code: "Expired", retry: "never" },
  422: invalid,
  429: { code: "TooManyRequests", retry: "backoff" },
};

/**
 * Texts of answers that judge the object that was sent, whatever their status: server-side apply answers 500 for a field that the
 * schema does not have, or has with another type. Sending the same again cannot help.
 */
const judgesTheObject = /failed to (create typed|convert) |unable to convert unstructured object|field not declared in schema/;

/** `body` is a metav1.Status as text, or anything a proxy answered. */
export function kubeError(status: number, body: string, operation: string): AppError {
  const parsed = parseStatus(body);
  const unknown = { code: status >= 500 ? "Unavailable" : "Invalid", retry: "backoff" } as const;
  const known = status >= 500 && judgesTheObject.test(parsed.message) ? invalid : (byStatus[status] ?? unknown);
  const code = status === 409 && parsed.reason === "AlreadyExists" ? "AlreadyExists" : known.code;
  return new AppError(parsed.message || `HTTP ${status}`, { code, operation, retry: known.retry });
}

function parseStatus(body: string): { message: string; reason: string } {
  try {
    const status = JSON.parse(body) as { message?: unknown; reason?: unknown };
    return {
      message: typeof status.message === "string" ? status.message : "",
      reason: typeof status.reason === "string" ? status.reason : "",
    };
  } catch {
    return { message: body.slice(0, 200), reason: "" };
  }
}

export function unavailable(cause: unknown, operation: string): AppError {
  const message = cause instanceof Error ? cause.message : String(cause);
  return new AppError(`the API server does not answer: ${message}`, { code: "Unavailable", operation, cause, retry: "backoff" });
}

export function hasCode(error: unknown, ...codes: string[]): boolean {
  return error instanceof AppError && codes.includes(error.code);
}
