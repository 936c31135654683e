// OpenAI request schemas, translated into a `GenerationJob`. Unimplemented fields are refused by name, unless they cannot change the
// answer.

import { z } from "zod";
import { invalid, type Problem, problemOfIssue, problems } from "../problem.ts";
import type { AnswerWriter, WriterStart } from "./answer-writer.ts";
import { chatMessage, message, noItems, text } from "./chat-messages.ts";
import { type GenerationJob, requestBounds } from "./generation-job.ts";
import { completionWriter } from "./openai-body.ts";
import { effort } from "./reasoning.ts";
import { responseFormat } from "./response-format.ts";
import { toolChoice, tools, toolUseOf } from "./tool-use.ts";

const tokenIdMax = 0xffffffff;

export type Parsed = { readonly job: GenerationJob; readonly writer: (start: WriterStart) => AnswerWriter } | { readonly problem: Problem };

export const only = <T extends z.core.util.Literal>(value: T, why: string) => z.literal(value, `${why}; leave it out`).nullish();

const tokenCount = z.number("must be a number").int("must be a whole number").max(requestBounds.maxTokens);
const maxTokens = tokenCount.min(1, "must be at least 1").nullish();

export const priority = z
  .number("must be a number")
  .int("must be a whole number")
  .min(-requestBounds.priority)
  .max(requestBounds.priority)
  .nullish();

const penalty = z
  .number("must be a number")
  .min(-requestBounds.penalty, "must be -2 to 2")
  .max(requestBounds.penalty, "must be -2 to 2")
  .nullish();

/** Stops at the first wrong entry, since each would be an issue. */
const logitBias = z.record(z.string(), z.unknown(), "must map token ids to numbers").transform((entries, context) => {
  const found = Object.entries(entries);
  const refuse = (message: string, path: PropertyKey[] = [], input: unknown = undefined): never[] => {
    context.issues.push({ code: "custom", message, path, input });
    return [];
  };
  if (found.length > requestBounds.biases) return refuse(`at most ${requestBounds.biases} tokens`);
  for (const [id, value] of found) {
    if (!/^\d{1,10}$/.test(id) || Number(id) > tokenIdMax) return refuse("must be a token id", [id], id);
    if (typeof value !== "number" || !(Math.abs(value) <= requestBounds.bias)) return refuse("must be -100 to 100", [id], value);
  }
  return found.map(([id, value]) => ({ id: Number(id), value: value as number }));
});

export const shared = {
  model: z.string("name the model"),
  max_tokens: maxTokens,
  temperature: z.number("must be a number").min(0, "must be 0 to 2").max(requestBounds.temperature, "must be 0 to 2").nullish(),
  top_p: z.number("must be a number").gt(0, "must be above 0 and at most 1").max(1, "must be above 0 and at most 1").nullish(),
  top_k: z.number("must be a number").int("must be a whole number").min(-1, "must be 0 (off) or more").max(requestBounds.topK).nullish(),
  seed: z.number("must be a number").int("must be a whole number").nullish(),
  stop: z
    .union([
      z.string().max(requestBounds.stopChars),
      z
        .array(z.string().min(1, "must not be empty").max(requestBounds.stopChars))
        .max(requestBounds.stops, `at most ${requestBounds.stops} stop strings`),
    ])
    .nullish(),
  stream: z.boolean("must be true or false").nullish(),
  stream_options: z.strictObject({ include_usage: z.boolean().nullish(), include_obfuscation: only(false, "not implemented") }).nullish(),
  n: z
    .number("must be a number")
    .int("must be a whole number")
    .min(1, `must be 1 to ${requestBounds.choices}`)
    .max(requestBounds.choices, `must be 1 to ${requestBounds.choices}`)
    .nullish(),
  presence_penalty: penalty,
  frequency_penalty: penalty,
  /** vLLM's extension, on tokens of prompt and answer. */
  repetition_penalty: z
    .number("must be a number")
    .min(0.01, "must be 0.01 to 10")
    .max(requestBounds.repetitionPenalty, "must be 0.01 to 10")
    .nullish(),
  /** vLLM's extension, relative to the likeliest token. */
  min_p: z.number("must be a number").min(0, "must be 0 to 1").max(1, "must be 0 to 1").nullish(),
  logit_bias: logitBias.nullish(),
  /** vLLM's extension: the lower number goes first. */
  priority,
  /** Benchmarks use it. */
  ignore_eos: z.boolean().nullish(),
  user: z.string().max(512).nullish(),
};

const topLogprobs = z
  .number("must be a number")
  .int("must be a whole number")
  .min(0, `must be 0 to ${requestBounds.topLogprobs}`)
  .max(requestBounds.topLogprobs, `must be 0 to ${requestBounds.topLogprobs}`)
  .nullish();

const chatRequestSchema = z.strictObject({
  ...shared,
  messages: z.array(message, "must be a list of messages").min(1, "at least one message").max(requestBounds.messages),
  max_completion_tokens: maxTokens,
  logprobs: z.boolean("must be true or false").nullish(),
  top_logprobs: topLogprobs,
  response_format: responseFormat.nullish(),
  modalities: z.array(z.literal("text", "only text is implemented")).max(1).nullish(),
  tools,
  tool_choice: toolChoice,
  parallel_tool_calls: z.boolean("must be true or false").nullish(),
  functions: noItems("use tools"),
  reasoning_effort: effort,
  /** Accepted without effect, like `user` and the fields below. */
  metadata: z.record(z.string(), z.unknown()).nullish(),
  store: only(false, "answers are not stored"),
  service_tier: z.enum(["auto", "default"]).nullish(),
  safety_identifier: z.string().max(512).nullish(),
  prompt_cache_key: z.string().max(512).nullish(),
});

/** A long prompt would make millions of issues. */
export const tokenIds = z
  .array(z.unknown())
  .min(1, "must not be empty")
  .max(requestBounds.promptTokens, `at most ${requestBounds.promptTokens} tokens`)
  .transform((ids, context): number[] => {
    const bad = ids.findIndex((id) => !(Number.isInteger(id) && (id as number) >= 0 && (id as number) <= tokenIdMax));
    // The list is meant as another type; the other branch reports the error.
    if (bad === 0 && typeof ids[0] !== "number")
      context.issues.push({ code: "invalid_type", expected: "number", path: [bad], input: ids[bad] });
    else if (bad >= 0) context.issues.push({ code: "custom", message: "must be a token id", path: [bad], input: ids[bad] });
    return ids as number[];
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
  echo: z.boolean("must be true or false").nullish(),
  best_of: z.number("must be a number").nullish(),
  suffix: z.null("not implemented; leave it out").optional(),
});

/** The original API's default. */
const completionTokensDefault = 16;

export function parseChat(body: unknown, served: string): Parsed {
  const parsed = chatRequestSchema.safeParse(body);
  if (!parsed.success) return { problem: modelProblem(body, served) ?? problemOfIssue(parsed.error) };
  const request = parsed.data;
  if (request.model !== served) return { problem: problems.unknownModel(request.model, served) };
  if (request.max_tokens != null && request.max_completion_tokens != null && request.max_tokens !== request.max_completion_tokens)
    return { problem: invalid("`max_tokens` and `max_completion_tokens` differ: send one.", "max_tokens", "invalid_value") };
  if (request.top_logprobs && request.logprobs !== true)
    return { problem: invalid("`top_logprobs` needs `logprobs: true`.", "top_logprobs", "invalid_value") };
  const constraint = request.response_format ?? undefined;
  if (constraint && request.ignore_eos)
    return { problem: invalid(`\`ignore_eos\`: a ${constraint.name} has an end; leave it out.`, "ignore_eos", "invalid_value") };
  const given = common(request, request.top_logprobs ?? 0);
  const messages = request.messages.map(chatMessage);
  const offered = (request.tools ?? []).map((tool) => tool.function);
  const chosen = request.tool_choice ?? "auto";
  const choice = typeof chosen === "object" ? chosen.function : chosen;
  const found = toolUseOf({ tools: offered, choice, parallel: request.parallel_tool_calls !== false, format: constraint });
  if ("problem" in found) return found;
  const job = {
    ...given,
    sampling: constraint ? { ...given.sampling, constraint } : given.sampling,
    endpoint: "chat" as const,
    prompts: [{ messages, tools: found.use?.tools ?? [], ...(request.reasoning_effort ? { effort: request.reasoning_effort } : {}) }],
    echo: false,
    ...(found.use ? { tools: found.use } : {}),
    maxTokens: request.max_completion_tokens ?? request.max_tokens ?? undefined,
    logprobs: request.logprobs === true,
  };
  return { job, writer: completionWriter(job) };
}

export function parseCompletion(body: unknown, served: string): Parsed {
  const parsed = completionRequestSchema.safeParse(body);
  if (!parsed.success) return { problem: modelProblem(body, served) ?? problemOfIssue(parsed.error) };
  const request = parsed.data;
  if (request.model !== served) return { problem: problems.unknownModel(request.model, served) };
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
  const maxTokens = request.max_tokens ?? completionTokensDefault;
  const job = { ...given, endpoint: "completions" as const, prompts, echo, maxTokens, logprobs: request.logprobs != null };
  return { job, writer: completionWriter(job) };
}

function common(
  request: z.infer<z.ZodObject<typeof shared>>,
  topLogprobs: number,
): Pick<GenerationJob, "n" | "sampling" | "stops" | "ignoreEos" | "priority" | "stream" | "includeUsage"> {
  const stop = request.stop ?? [];
  return {
    n: request.n ?? 1,
    sampling: {
      temperature: request.temperature ?? 1,
      topP: request.top_p ?? 1,
      topK: Math.max(0, request.top_k ?? 0),
      seed: request.seed == null ? undefined : BigInt.asUintN(64, BigInt(request.seed)),
      minP: request.min_p ?? 0,
      presencePenalty: request.presence_penalty ?? 0,
      frequencyPenalty: request.frequency_penalty ?? 0,
      repetitionPenalty: request.repetition_penalty ?? 1,
      bias: request.logit_bias ?? [],
      topLogprobs,
    },
    stops: (typeof stop === "string" ? [stop] : stop).filter((one) => one !== ""),
    ignoreEos: request.ignore_eos === true,
    priority: request.priority ?? undefined,
    stream: request.stream === true,
    includeUsage: request.stream_options?.include_usage === true,
  };
}

export function promptsOf(
  given: string | readonly (string | number | readonly number[])[],
): ({ readonly text: string } | { readonly tokens: readonly number[] })[] {
  if (typeof given === "string") return [{ text: given }];
  if (typeof given[0] === "number") return [{ tokens: given as readonly number[] }];
  return given.map((one) => (typeof one === "string" ? { text: one } : { tokens: one as readonly number[] }));
}

/** A wrong model explains other errors. */
export function modelProblem(body: unknown, served: string): Problem | undefined {
  const model = typeof body === "object" && body !== null && "model" in body ? body.model : undefined;
  return typeof model === "string" && model !== served ? problems.unknownModel(model, served) : undefined;
}
