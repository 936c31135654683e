// OpenAI request schemas of chats and completions. Unimplemented fields are refused by name, unless they cannot change the answer.

import { z } from "zod";
import type { Constraint } from "../../constraints/language.ts";
import { invalid, type Problem } from "../problem.ts";
import { chatMessage, message, noItems, text } from "./chat-messages.ts";
import { requestBounds } from "./generation-request.ts";
import { completionWriter } from "./openai-body.ts";
import { effort, templateVariables } from "./reasoning.ts";
import {
  chatOf,
  common,
  flag,
  maxTokens,
  number,
  only,
  type Parsed,
  promptsOf,
  readBody,
  shared,
  tokenCount,
  tokenIds,
  topLogprobs,
  withoutEffect,
} from "./request-fields.ts";
import { responseFormat, structuredOutputs } from "./response-format.ts";
import { toolChoice, tools } from "./tool-use.ts";

const chatRequestSchema = z.strictObject({
  ...shared,
  messages: z.array(message, "must be a list of messages").min(1, "at least one message").max(requestBounds.messages),
  max_completion_tokens: maxTokens,
  logprobs: flag,
  top_logprobs: topLogprobs,
  response_format: responseFormat.nullish(),
  structured_outputs: structuredOutputs.nullish(),
  modalities: z.array(z.literal("text", "only text is implemented")).max(1).nullish(),
  tools,
  tool_choice: toolChoice,
  parallel_tool_calls: flag,
  functions: noItems("use tools"),
  reasoning_effort: effort,
  chat_template_kwargs: templateVariables,
  store: only(false, "answers are not stored"),
  ...withoutEffect,
});

const completionRequestSchema = z.strictObject({
  ...shared,
  prompt: z.union(
    [
      text,
      tokenIds,
      z.array(text).min(1, "must not be empty").max(requestBounds.prompts, `at most ${requestBounds.prompts} prompts`),
      z.array(tokenIds).min(1, "must not be empty").max(requestBounds.prompts, `at most ${requestBounds.prompts} prompts`),
    ],
    "must be a string, a list of strings, a list of token ids or a list of such lists",
  ),
  /** 0 returns the prompt's log-probabilities only. */
  max_tokens: tokenCount.min(0, "must be at least 0").nullish(),
  logprobs: topLogprobs,
  echo: flag,
  best_of: number.nullish(),
  suffix: z.null("not implemented; leave it out").optional(),
  structured_outputs: structuredOutputs.nullish(),
});

export const chatFields = Object.keys(chatRequestSchema.shape);
export const completionFields = Object.keys(completionRequestSchema.shape);

/** The original API's default. */
const completionTokensDefault = 16;

const endless = ({ name }: Constraint): Problem =>
  invalid(`\`ignore_eos\`: a ${name} has an end; leave it out.`, "ignore_eos", "invalid_value");

export function parseChat(body: unknown, served: string): Parsed {
  const read = readBody(chatRequestSchema, body, served);
  if ("problem" in read) return read;
  const { request } = read;
  if (request.max_tokens != null && request.max_completion_tokens != null && request.max_tokens !== request.max_completion_tokens)
    return { problem: invalid("`max_tokens` and `max_completion_tokens` differ: send one.", "max_tokens", "invalid_value") };
  if (request.top_logprobs && request.logprobs !== true)
    return { problem: invalid("`top_logprobs` needs `logprobs: true`.", "top_logprobs", "invalid_value") };
  if (request.response_format && request.structured_outputs)
    return { problem: invalid("`structured_outputs` and `response_format`: send one.", "structured_outputs", "invalid_value") };
  const constraint = request.response_format ?? request.structured_outputs ?? undefined;
  if (constraint && request.ignore_eos) return { problem: endless(constraint) };
  const chosen = request.tool_choice ?? "auto";
  const chat = chatOf("chat", common(request, request.top_logprobs ?? 0), {
    messages: request.messages.map(chatMessage),
    effort: request.reasoning_effort,
    variables: request.chat_template_kwargs,
    tools: (request.tools ?? []).map((tool) => tool.function),
    choice: typeof chosen === "object" ? chosen.function : chosen,
    parallel: request.parallel_tool_calls !== false,
    constraint,
    maxTokens: request.max_completion_tokens ?? request.max_tokens,
    logprobs: request.logprobs === true,
  });
  return "problem" in chat ? chat : { ...chat, writer: completionWriter({ ...chat.job, endpoint: "chat" }) };
}

export function parseCompletion(body: unknown, served: string): Parsed {
  const read = readBody(completionRequestSchema, body, served);
  if ("problem" in read) return read;
  const { request } = read;
  const given = common(request, request.logprobs ?? 0);
  const prompts = promptsOf(request.prompt);
  const echo = request.echo === true;
  if (prompts.length * given.n > requestBounds.choices) {
    const message = `\`n\`: ${given.n} answers to ${prompts.length} prompts, at most ${requestBounds.choices} answers a request.`;
    return { problem: invalid(message, "n", "invalid_value") };
  }
  if (request.best_of != null && request.best_of !== given.n)
    return { problem: invalid("`best_of`: only as many answers as `n` are computed; leave it out.", "best_of", "invalid_value") };
  if (request.max_tokens === 0 && !echo)
    return { problem: invalid("`max_tokens`: must be at least 1 without `echo`.", "max_tokens", "invalid_value") };
  const constraint = request.structured_outputs ?? undefined;
  if (constraint && request.ignore_eos) return { problem: endless(constraint) };
  const maxTokens = request.max_tokens ?? completionTokensDefault;
  const sampling = constraint ? { ...given.sampling, constraint } : given.sampling;
  const job = { ...given, sampling, endpoint: "completions" as const, prompts, echo, maxTokens, logprobs: request.logprobs != null };
  return { job, writer: completionWriter(job) };
}
