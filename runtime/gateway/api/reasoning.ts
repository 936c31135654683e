// Fields of chats and /v1/responses that set variables of the chat template.
import { z } from "zod";
import type { Thinking } from "../../text/thinking.ts";
import { type Effort, efforts } from "../../text/thinking.ts";
import { invalid, type Problem } from "../problem.ts";

const summaries = ["auto", "concise", "detailed"] as const;

export const effort = z.enum(efforts, `must be one of ${efforts.join(", ")}`).nullish();
/** Accepted without effect: reasoning is never summarised. */
const summary = z.enum(summaries, `must be one of ${summaries.join(", ")}`).nullish();
export const reasoning = z.strictObject({ effort, summary, generate_summary: summary }).nullish();

/** Ours, or the request's own fields. */
const reserved = ["messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "chat_template"];
const nameIsFree = (name: string): boolean => /^[A-Za-z_]\w{0,63}$/.test(name) && !reserved.includes(name) && !/_token$/.test(name);
/** A text of other characters could be read as the template's own marks. */
const plainText = z.string().regex(/^[\w .,:+-]{0,128}$/, "may have letters, digits, spaces and . , : + - _, 128 at most");

/** vLLM's field. A variable that the template does not read has no effect. */
export const templateVariables = z
  .record(z.string(), z.union([z.boolean(), z.number(), plainText], "must be true, false, a number or a plain text"))
  .refine((all) => Object.keys(all).length <= 32, "at most 32 variables")
  .superRefine((all, context) => {
    const taken = Object.keys(all).find((name) => !nameIsFree(name));
    if (taken !== undefined) context.addIssue({ code: "custom", path: [taken], message: "is not a variable that a request may set" });
  })
  .nullish();

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
