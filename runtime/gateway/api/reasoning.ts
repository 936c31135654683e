// Reasoning-effort fields of chats and /v1/responses.
import { z } from "zod";
import type { Thinking } from "../../text/thinking.ts";
import { type Effort, efforts } from "../../text/thinking.ts";
import { invalid, type Problem } from "../problem.ts";

const summaries = ["auto", "concise", "detailed"] as const;

export const effort = z.enum(efforts, `must be one of ${efforts.join(", ")}`).nullish();
/** Accepted without effect: reasoning is never summarised. */
const summary = z.enum(summaries, `must be one of ${summaries.join(", ")}`).nullish();
export const reasoning = z.strictObject({ effort, summary, generate_summary: summary }).nullish();

/** Refuses unsupported efforts of a model with a switch; a model without one ignores the effort. */
export function effortProblem(requested: Effort | undefined, thinking: Thinking | undefined, param: string): Problem | undefined {
  if (requested === undefined || thinking === undefined || thinking(requested) !== undefined) return undefined;
  const possible = efforts.filter((one) => thinking(one) !== undefined);
  return invalid(
    `\`${param}\`: this model's chat template has no word for ${requested}; it has for ${possible.join(", ")}.`,
    param,
    "invalid_value",
  );
}
