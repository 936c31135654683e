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

/** A field that another manager has set to another value. */
export interface FieldConflict {
  /** As the API server writes it: `.spec.replicas`. */
  readonly field: string;
  readonly manager: string;
  /** The door through which the manager wrote, such as `scale`; empty for the object itself. */
  readonly subresource: string;
  /** An apply declares the field for good, an update has set it at some time. */
  readonly operation: "Apply" | "Update";
}

/** The answer to an apply that is not forced. Sending the same again cannot help before somebody gives the fields up. */
export class FieldConflictError extends AppError {
  readonly conflicts: readonly FieldConflict[];

  constructor(message: string, conflicts: readonly FieldConflict[], operation: string) {
    super(message, { code: "FieldConflict", operation, retry: "backoff" });
    this.conflicts = conflicts;
  }
}

/** `body` is a metav1.Status as text, or anything a proxy answered. */
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

/** The manager as a cause names it. Who has updated is told with the version that was used, who has applied is told without. */
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

/** Go quotes much as JSON does; what JSON cannot read stays quoted. */
function unquoted(text: string): string {
  try {
    return String(JSON.parse(text));
  } catch {
    return text;
  }
}

export function unavailable(cause: unknown, operation: string): AppError {
  const message = cause instanceof Error ? cause.message : String(cause);
  return new AppError(`the API server does not answer: ${message}`, { code: "Unavailable", operation, cause, retry: "backoff" });
}

export function hasCode(error: unknown, ...codes: string[]): boolean {
  return error instanceof AppError && codes.includes(error.code);
}
