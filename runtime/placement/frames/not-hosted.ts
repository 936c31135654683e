// The error of a frame for experts that its rank does not hold.
import { AppError } from "../../../crds/common.ts";

const code = "NotHosted";

export function notHosted(experts: readonly number[], message: string): AppError {
  return new AppError(message, { code, retry: "backoff", cause: { experts } });
}

/** The experts that such an error names; none for any other error. */
export function missingExperts(error: unknown): readonly number[] {
  if (!(error instanceof AppError) || error.code !== code) return [];
  return (error.cause as { experts?: readonly number[] } | undefined)?.experts ?? [];
}
