// Maps HTTP answers of the API server to the AppErrors of the Kube interface. Pure.
import { AppError, messageOf, type Retry } from "../../crds/common.ts";

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

/** Messages that judge the object whatever the HTTP status: server-side apply answers 500 for fields of a wrong name or type. */
const judgesTheObject = /failed to (create typed|convert) |unable to convert unstructured object|field not declared in schema/;

/** A field to which another manager gave another value. */
export interface FieldConflict {
  /** As the API server writes it: `.spec.replicas`. */
  readonly field: string;
  readonly manager: string;
  /** The manager's subresource, such as `scale`; empty for the object itself. */
  readonly subresource: string;
  /** An Apply declares the field permanently; an Update set it once. */
  readonly operation: "Apply" | "Update";
}

/** The answer to an apply without force. A retry helps only once others give the fields up. */
export class FieldConflictError extends AppError {
  readonly conflicts: readonly FieldConflict[];

  constructor(message: string, conflicts: readonly FieldConflict[], operation: string) {
    super(message, { code: "FieldConflict", operation, retry: "backoff" });
    this.conflicts = conflicts;
  }
}

/** `body`: a metav1.Status as text, or anything that a proxy answered. */
export function kubeError(status: number, body: string, operation: string): AppError {
  const parsed = parseStatus(body);
  if (status === 409 && parsed.conflicts.length > 0) return new FieldConflictError(parsed.message, parsed.conflicts, operation);
  const unknown = { code: status >= 500 ? "Unavailable" : "Invalid", retry: "backoff" } as const;
  const known = status >= 500 && judgesTheObject.test(parsed.message) ? invalid : (byStatus[status] ?? unknown);
  const code = status === 409 && parsed.reason === "AlreadyExists" ? "AlreadyExists" : known.code;
  return new AppError(parsed.message || `HTTP ${status}`, { code, operation, retry: known.retry });
}

interface ParsedStatus {
  readonly message: string;
  readonly reason: string;
  readonly conflicts: readonly FieldConflict[];
}

function parseStatus(body: string): ParsedStatus {
  try {
    const status = JSON.parse(body) as { message?: unknown; reason?: unknown; details?: { causes?: unknown } };
    const causes = Array.isArray(status.details?.causes) ? status.details.causes : [];
    return {
      message: typeof status.message === "string" ? status.message : "",
      reason: typeof status.reason === "string" ? status.reason : "",
      conflicts: causes.flatMap((cause) => parseConflict(cause) ?? []),
    };
  } catch {
    return { message: body.slice(0, 200), reason: "", conflicts: [] };
  }
}

/** Updates are reported with the API version, applies without. */
const conflictPattern = /^conflict with ("(?:[^"\\]|\\.)*")(?: with subresource ("(?:[^"\\]|\\.)*"))?( using )?/;

function parseConflict(cause: { reason?: unknown; message?: unknown; field?: unknown } | null): FieldConflict | undefined {
  if (cause?.reason !== "FieldManagerConflict") return undefined;
  const [, manager, subresource, updated] = conflictPattern.exec(String(cause.message)) ?? [];
  return {
    field: String(cause.field),
    manager: manager === undefined ? String(cause.message) : unquoted(manager),
    subresource: subresource === undefined ? "" : unquoted(subresource),
    operation: updated === undefined ? "Apply" : "Update",
  };
}

/** Go's quoting resembles JSON's; what JSON cannot parse stays quoted. */
function unquoted(text: string): string {
  try {
    return String(JSON.parse(text));
  } catch {
    return text;
  }
}

export function unavailable(cause: unknown, operation: string): AppError {
  return new AppError(`the API server does not answer: ${messageOf(cause)}`, { code: "Unavailable", operation, cause, retry: "backoff" });
}

export function hasCode(error: unknown, ...codes: string[]): boolean {
  return error instanceof AppError && codes.includes(error.code);
}
