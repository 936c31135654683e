// What of a job depends on the model: what it cannot do, the variables of its template, and the language of its calls.
import type { Constraint } from "../../constraints/language.ts";
import type { TextModel } from "../../text/text-model.ts";
import type { Variables } from "../../text/thinking.ts";
import { invalid, type Problem } from "../problem.ts";
import type { Chat, GenerationRequest, Prompt } from "./generation-request.ts";
import { effortProblem } from "./reasoning.ts";
import { heldTo } from "./tool-use.ts";

const effortField = { chat: "reasoning_effort", completions: "reasoning_effort", responses: "reasoning.effort" } as const;

/** Returns what the model cannot do for this job, whatever its prompts are. */
export function misfit(job: GenerationRequest, { vocab, thinking }: TextModel): Problem | undefined {
  const { sampling, prompts, endpoint, maxTokens, stopTokens = [] } = job;
  const { minTokens = 0 } = sampling;
  if (maxTokens !== undefined && minTokens > maxTokens)
    return invalid(`\`min_tokens\`: ${minTokens} are more than the ${maxTokens} that there may be.`, "min_tokens", "invalid_value");
  const unknown = stopTokens.find((id) => id >= vocab);
  if (unknown !== undefined)
    return invalid(`\`stop_token_ids\`: token ${unknown} is not below ${vocab}.`, "stop_token_ids", "invalid_value");
  const strange = sampling.bias.find(({ id }) => id >= vocab);
  if (strange) return invalid(`\`logit_bias\`: token ${strange.id} is not below ${vocab}.`, "logit_bias", "invalid_value");
  const unthinkable = prompts.map((one) => effortProblem("messages" in one ? one.effort : undefined, thinking, effortField[endpoint]));
  return unthinkable.find((one) => one !== undefined);
}

/** True when the answer is constrained from its first token on, which excludes reasoning. */
export const isHeld = ({ sampling, tools }: GenerationRequest, constraint: Constraint | undefined): boolean =>
  sampling.constraint !== undefined || (constraint !== undefined && tools?.choice !== "auto");

/** Switches reasoning off for constrained answers, unless the client asked for some. */
export function promptsFor(job: GenerationRequest, constraint: Constraint | undefined, { thinking }: TextModel): readonly Prompt[] {
  if (!isHeld(job, constraint) || thinking?.("none") === undefined) return job.prompts;
  return job.prompts.map((prompt) => ("messages" in prompt ? { effort: "none", ...prompt } : prompt));
}

export function languageOfCalls(
  { tools, ignoreEos, sampling, stopTokens = [] }: GenerationRequest,
  textModel: TextModel,
): ReturnType<typeof heldTo> {
  const held = tools ? heldTo(tools, textModel.tools) : { constraint: undefined };
  const field = stopTokens.length > 0 ? "stop_token_ids" : sampling.minTokens ? "min_tokens" : undefined;
  if (field && (sampling.constraint ?? ("constraint" in held && held.constraint))) {
    const message = `\`${field}\`: an answer that is held to a format or to calls has an end of its own; leave it out.`;
    return { problem: invalid(message, field, "invalid_value") };
  }
  if ("problem" in held || held.constraint === undefined || !ignoreEos) return held;
  const message = "`ignore_eos`: calls that are held to their tools have an end; leave it out.";
  return { problem: invalid(message, "ignore_eos", "invalid_value") };
}

export function variablesOf({ effort, variables }: Chat, { thinking }: TextModel): Variables {
  return { ...(effort && thinking?.(effort)), ...variables };
}
