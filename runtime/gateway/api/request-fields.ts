// Request fields that several APIs share, and the generation that they ask for.

import { z } from "zod";
import type { Constraint } from "../../constraints/language.ts";
import type { ChatMessage } from "../../text/text-model.ts";
import type { Effort, Variables } from "../../text/thinking.ts";
import { type Problem, problemOfIssue, problems } from "../problem.ts";
import type { AnswerWriter, WriterStart } from "./choices.ts";
import { type GenerationRequest, requestBounds } from "./generation-request.ts";
import { type AskedTools, toolUseOf } from "./tool-use.ts";

const tokenIdMax = 0xffffffff;

export type Parsed =
  | { readonly job: GenerationRequest; readonly writer: (start: WriterStart) => AnswerWriter }
  | { readonly problem: Problem };

export const only = <T extends z.core.util.Literal>(value: T, why: string) => z.literal(value, `${why}; leave it out`).nullish();
export const flag = z.boolean("must be true or false").nullish();
export const number = z.number("must be a number");
const whole = number.int("must be a whole number");

/** A message names both bounds. */
const within = (lowest: number, highest: number, of = number) =>
  of.min(lowest, `must be ${lowest} to ${highest}`).max(highest, `must be ${lowest} to ${highest}`).nullish();

export const tokenCount = whole.max(requestBounds.maxTokens);
export const maxTokens = tokenCount.min(1, "must be at least 1").nullish();
export const topLogprobs = within(0, requestBounds.topLogprobs, whole);
export const priority = whole.min(-requestBounds.priority).max(requestBounds.priority).nullish();

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
  temperature: within(0, requestBounds.temperature),
  top_p: number.gt(0, "must be above 0 and at most 1").max(1, "must be above 0 and at most 1").nullish(),
  top_k: whole.min(-1, "must be 0 (off) or more").max(requestBounds.topK).nullish(),
  seed: whole.nullish(),
  stop: z
    .union([
      z.string().max(requestBounds.stopChars),
      z
        .array(z.string().min(1, "must not be empty").max(requestBounds.stopChars))
        .max(requestBounds.stops, `at most ${requestBounds.stops} stop strings`),
    ])
    .nullish(),
  stream: flag,
  stream_options: z
    .strictObject({ include_usage: flag, continuous_usage_stats: flag, include_obfuscation: only(false, "not implemented") })
    .nullish(),
  /** vLLM's extension: these end a free answer as the end of text does. */
  stop_token_ids: z
    .array(whole.min(0).max(tokenIdMax))
    .max(requestBounds.stopTokens, `at most ${requestBounds.stopTokens} tokens`)
    .nullish(),
  /** vLLM's extension: neither a token nor a string ends the text before. */
  min_tokens: tokenCount.min(0, "must be at least 0").nullish(),
  /** vLLM's extension. */
  skip_special_tokens: only(true, "special tokens are never shown"),
  n: within(1, requestBounds.choices, whole),
  presence_penalty: within(-requestBounds.penalty, requestBounds.penalty),
  frequency_penalty: within(-requestBounds.penalty, requestBounds.penalty),
  /** vLLM's extension, on tokens of prompt and answer. */
  repetition_penalty: within(0.01, requestBounds.repetitionPenalty),
  /** vLLM's extension, relative to the likeliest token. */
  min_p: within(0, 1),
  logit_bias: logitBias.nullish(),
  /** vLLM's extension: the lower number goes first. */
  priority,
  /** vLLM's extension, so that no other caller can tell by the time what was asked before. */
  cache_salt: z.string().min(1, "must not be empty").max(requestBounds.cacheSaltChars).nullish(),
  /** Benchmarks use it. */
  ignore_eos: z.boolean().nullish(),
  user: z.string().max(512).nullish(),
};

/** Accepted without effect. */
export const withoutEffect = {
  metadata: z.record(z.string(), z.unknown()).nullish(),
  service_tier: z.enum(["auto", "default"]).nullish(),
  safety_identifier: z.string().max(512).nullish(),
  prompt_cache_key: z.string().max(512).nullish(),
};

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

/** Values of these are anybody's JSON, where null is a value. */
const freeJson: readonly string[] = ["chat_template_kwargs", "json", "metadata", "parameters", "schema"];
/** Fields of requests nest less deeply. */
const nullDepth = 8;

/** Clients write null for a field that they leave out. */
function withoutNulls(value: unknown, depth = nullDepth): unknown {
  if (typeof value !== "object" || value === null || depth === 0) return value;
  if (Array.isArray(value)) return typeof value[0] === "object" ? value.map((one) => withoutNulls(one, depth - 1)) : value;
  const given = Object.entries(value).filter(([, field]) => field !== null);
  return Object.fromEntries(given.map(([key, field]) => [key, freeJson.includes(key) ? field : withoutNulls(field, depth - 1)]));
}

/** A wrong model explains other errors. */
export function readBody<R extends { readonly model?: string | null | undefined }>(
  schema: z.ZodType<R>,
  body: unknown,
  served: string,
): { readonly request: R } | { readonly problem: Problem } {
  const model = typeof body === "object" && body !== null && "model" in body ? body.model : undefined;
  if (typeof model === "string" && model !== served) return { problem: problems.unknownModel(model, served) };
  const parsed = schema.safeParse(withoutNulls(body));
  return parsed.success ? { request: parsed.data } : { problem: problemOfIssue(parsed.error) };
}

type Common = Pick<
  GenerationRequest,
  "n" | "sampling" | "stops" | "stopTokens" | "ignoreEos" | "priority" | "cacheSalt" | "stream" | "usageIn"
>;

export function common(request: Partial<z.infer<z.ZodObject<typeof shared>>>, topLogprobs: number): Common {
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
      ...(request.min_tokens ? { minTokens: request.min_tokens } : {}),
    },
    stops: (typeof stop === "string" ? [stop] : stop).filter((one) => one !== ""),
    stopTokens: request.stop_token_ids ?? [],
    ignoreEos: request.ignore_eos === true,
    priority: request.priority ?? undefined,
    cacheSalt: request.cache_salt ?? "",
    stream: request.stream === true,
    usageIn: usageIn(request.stream_options ?? {}),
  };
}

type StreamOptions = NonNullable<z.infer<typeof shared.stream_options>>;

/** As in vLLM, `continuous_usage_stats` says nothing without `include_usage`. */
function usageIn({ include_usage, continuous_usage_stats }: StreamOptions): GenerationRequest["usageIn"] {
  if (include_usage !== true) return "none";
  return continuous_usage_stats === true ? "every" : "last";
}

interface ChatFields extends Omit<AskedTools, "format"> {
  readonly messages: readonly ChatMessage[];
  readonly effort: Effort | null | undefined;
  readonly variables?: Variables | null | undefined;
  readonly constraint: Constraint | undefined;
  readonly maxTokens: number | null | undefined;
  readonly logprobs: boolean;
}

/** One chat, however its API writes it. */
export function chatOf(
  endpoint: "chat" | "responses",
  given: Common,
  fields: ChatFields,
): { job: GenerationRequest } | { problem: Problem } {
  const { messages, effort, variables, constraint, maxTokens: most, logprobs, ...asked } = fields;
  const found = toolUseOf({ ...asked, format: constraint });
  if ("problem" in found) return found;
  const job = {
    ...given,
    sampling: constraint ? { ...given.sampling, constraint } : given.sampling,
    endpoint,
    prompts: [{ messages, tools: found.use?.tools ?? [], ...(effort ? { effort } : {}), ...(variables ? { variables } : {}) }],
    echo: false,
    ...(found.use ? { tools: found.use } : {}),
    maxTokens: most ?? undefined,
    logprobs,
  };
  return { job };
}

export function promptsOf(
  given: string | readonly (string | number | readonly number[])[],
): ({ readonly text: string } | { readonly tokens: readonly number[] })[] {
  if (typeof given === "string") return [{ text: given }];
  if (typeof given[0] === "number") return [{ tokens: given as readonly number[] }];
  return given.map((one) => (typeof one === "string" ? { text: one } : { tokens: one as readonly number[] }));
}
