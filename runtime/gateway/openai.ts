// The OpenAI requests this gateway takes, as zod schemas, and their translation into one neutral `GenerationJob`.
// Fields that are not implemented are refused by name; fields that cannot change the answer (user, metadata, ...) are
// accepted and listed below. Pure: text in, job out; tokenisation and limits of the model come later (answer.ts).

import { z } from "zod";
import type { Constraint } from "../engine/core/constraints/language.ts";
import type { ChatMessage } from "../text/text-model.ts";
import { invalid, type Problem, problemOfIssue, problems } from "./problem.ts";
import { responseFormat } from "./response-format.ts";

export const requestBounds = {
  stops: 4,
  stopChars: 500,
  messages: 2048,
  contentParts: 256,
  promptChars: 4_000_000,
  promptTokens: 1_048_576,
  temperature: 2,
  topK: 1_000_000,
  maxTokens: 1_000_000,
  topLogprobs: 20,
  penalty: 2,
  repetitionPenalty: 10,
  biases: 1_024,
  bias: 100,
  priority: 2 ** 31 - 1,
} as const;

const tokenIdMax = 0xffffffff;

interface JobSampling {
  readonly temperature: number;
  readonly topP: number;
  readonly topK: number;
  /** The seed; when undefined the gateway draws one. */
  readonly seed: bigint | undefined;
  readonly minP: number;
  readonly presencePenalty: number;
  readonly frequencyPenalty: number;
  readonly repetitionPenalty: number;
  readonly bias: readonly { readonly id: number; readonly value: number }[];
  /** Tokens told beside each; 0 = none. */
  readonly topLogprobs: number;
  readonly constraint?: Constraint;
}

export interface GenerationJob {
  readonly endpoint: "chat" | "completions";
  readonly prompt: { readonly messages: readonly ChatMessage[] } | { readonly text: string } | { readonly tokens: readonly number[] };
  /** The most tokens to make; when undefined as many as the context allows. */
  readonly maxTokens: number | undefined;
  readonly sampling: JobSampling;
  readonly stops: readonly string[];
  readonly ignoreEos: boolean;
  readonly logprobs: boolean;
  /** Of two requests that wait, the one with the lower number goes first. */
  readonly priority: number;
  readonly stream: boolean;
  readonly includeUsage: boolean;
}

export type Parsed = { readonly job: GenerationJob } | { readonly problem: Problem };

/** A prompt as text. */
export const text = z.string().max(requestBounds.promptChars, `at most ${requestBounds.promptChars} characters`);
export const only = <T extends z.core.util.Literal>(value: T, why: string) => z.literal(value, `${why}; leave it out`).nullish();
const noItems = (why: string) => z.array(z.unknown()).max(0, `${why}; leave it out`).nullish();

const maxTokens = z
  .number("must be a number")
  .int("must be a whole number")
  .min(1, "must be at least 1")
  .max(requestBounds.maxTokens)
  .nullish();

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

/** Token id, as text, to what is added to its logit. Stops at the first wrong entry: many would each be an issue. */
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

/** Common to both endpoints. */
const shared = {
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
  n: only(1, "only one answer per request is implemented"),
  presence_penalty: penalty,
  frequency_penalty: penalty,
  /** Extension, as in vLLM: on tokens of prompt and answer. */
  repetition_penalty: z
    .number("must be a number")
    .min(0.01, "must be 0.01 to 10")
    .max(requestBounds.repetitionPenalty, "must be 0.01 to 10")
    .nullish(),
  /** Extension, as in vLLM: the least probability beside the likeliest token's. */
  min_p: z.number("must be a number").min(0, "must be 0 to 1").max(1, "must be 0 to 1").nullish(),
  logit_bias: logitBias.nullish(),
  /** Extension, as in vLLM: of requests that wait, the lowest goes first. */
  priority,
  /** Extension: go on after the end-of-text token, for benchmarks. */
  ignore_eos: z.boolean().nullish(),
  /** The user's name, accepted without effect: it tells who asks, not what. */
  user: z.string().max(512).nullish(),
};

const topLogprobs = z
  .number("must be a number")
  .int("must be a whole number")
  .min(0, `must be 0 to ${requestBounds.topLogprobs}`)
  .max(requestBounds.topLogprobs, `must be 0 to ${requestBounds.topLogprobs}`)
  .nullish();

const textPart = z.strictObject({ type: z.literal("text", "only text parts are implemented"), text });
const content = z.union([text, z.array(textPart).max(requestBounds.contentParts)], "must be a string or text parts");
const message = z.discriminatedUnion(
  "role",
  [
    z.strictObject({ role: z.enum(["system", "developer", "user"]), content, name: z.string().max(64).optional() }),
    z.strictObject({
      role: z.literal("assistant"),
      content,
      name: z.string().max(64).optional(),
      refusal: z.null("not implemented; leave it out").optional(),
      /** Accepted without effect, as answers come with it: a model sees what it said, not what it thought. */
      reasoning_content: text.nullish(),
      tool_calls: noItems("tools are not implemented"),
      annotations: noItems("not implemented"),
      audio: z.null("not implemented; leave it out").optional(),
      function_call: z.null("not implemented; leave it out").optional(),
    }),
  ],
  "must be system, developer, user or assistant",
);

const chatRequestSchema = z.strictObject({
  ...shared,
  messages: z.array(message, "must be a list of messages").min(1, "at least one message").max(requestBounds.messages),
  max_completion_tokens: maxTokens,
  logprobs: z.boolean("must be true or false").nullish(),
  top_logprobs: topLogprobs,
  response_format: responseFormat.nullish(),
  modalities: z.array(z.literal("text", "only text is implemented")).max(1).nullish(),
  tools: noItems("tools are not implemented"),
  tool_choice: z.enum(["none", "auto"], "tools are not implemented; leave it out").nullish(),
  functions: noItems("functions are not implemented"),
  /** Accepted without effect. */
  parallel_tool_calls: z.boolean().nullish(),
  metadata: z.record(z.string(), z.unknown()).nullish(),
  store: only(false, "answers are not stored"),
  service_tier: z.enum(["auto", "default"]).nullish(),
  safety_identifier: z.string().max(512).nullish(),
  prompt_cache_key: z.string().max(512).nullish(),
});

/** A prompt as ids. Stops at the first wrong id: millions of them would each be an issue. */
export const tokenIds = z
  .array(z.unknown())
  .min(1, "must not be empty")
  .max(requestBounds.promptTokens, `at most ${requestBounds.promptTokens} tokens`)
  .transform((ids, context): number[] => {
    const bad = ids.findIndex((id) => !(Number.isInteger(id) && (id as number) >= 0 && (id as number) <= tokenIdMax));
    // A list that begins with no number is meant as something else: then the other branch says what is wrong.
    if (bad === 0 && typeof ids[0] !== "number")
      context.issues.push({ code: "invalid_type", expected: "number", path: [bad], input: ids[bad] });
    else if (bad >= 0) context.issues.push({ code: "custom", message: "must be a token id", path: [bad], input: ids[bad] });
    return ids as number[];
  });

const completionRequestSchema = z.strictObject({
  ...shared,
  prompt: z.union(
    [text, tokenIds, z.array(text).length(1, "one prompt per request is implemented")],
    "must be one string or one list of token ids",
  ),
  logprobs: topLogprobs,
  echo: only(false, "echo is not implemented"),
  best_of: only(1, "only one answer per request is implemented"),
  suffix: z.null("not implemented; leave it out").optional(),
});

/** max_tokens of /v1/completions when the client names none, as in the original API. */
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
  const messages = request.messages.map((one): ChatMessage => {
    const flat = typeof one.content === "string" ? one.content : one.content.map((part) => part.text).join("");
    const role = one.role === "developer" ? "system" : one.role;
    return { role, content: flat, ...(one.name === undefined ? {} : { name: one.name }) };
  });
  return {
    job: {
      ...given,
      sampling: constraint ? { ...given.sampling, constraint } : given.sampling,
      endpoint: "chat",
      prompt: { messages },
      maxTokens: request.max_completion_tokens ?? request.max_tokens ?? undefined,
      logprobs: request.logprobs === true,
    },
  };
}

export function parseCompletion(body: unknown, served: string): Parsed {
  const parsed = completionRequestSchema.safeParse(body);
  if (!parsed.success) return { problem: modelProblem(body, served) ?? problemOfIssue(parsed.error) };
  const request = parsed.data;
  if (request.model !== served) return { problem: problems.unknownModel(request.model, served) };
  return {
    job: {
      ...common(request, request.logprobs ?? 0),
      endpoint: "completions",
      prompt: promptOf(request.prompt),
      maxTokens: request.max_tokens ?? completionTokensDefault,
      logprobs: request.logprobs != null,
    },
  };
}

function common(
  request: z.infer<z.ZodObject<typeof shared>>,
  topLogprobs: number,
): Pick<GenerationJob, "sampling" | "stops" | "ignoreEos" | "priority" | "stream" | "includeUsage"> {
  const stop = request.stop ?? [];
  return {
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
    priority: request.priority ?? 0,
    stream: request.stream === true,
    includeUsage: request.stream_options?.include_usage === true,
  };
}

function promptOf(prompt: string | readonly string[] | readonly number[]): GenerationJob["prompt"] {
  if (typeof prompt === "string") return { text: prompt };
  const first = prompt[0];
  return typeof first === "string" ? { text: first } : { tokens: prompt as readonly number[] };
}

/** A wrong model says more than a detail of the rest. */
export function modelProblem(body: unknown, served: string): Problem | undefined {
  const model = typeof body === "object" && body !== null && "model" in body ? body.model : undefined;
  return typeof model === "string" && model !== served ? problems.unknownModel(model, served) : undefined;
}
