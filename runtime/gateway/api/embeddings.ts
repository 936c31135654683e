// /v1/embeddings without HTTP.
import { z } from "zod";
import { AppError } from "../../../crds/common.ts";
import type { FailoverReason } from "../../../crds/names.ts";
import { invalid, type Problem } from "../problem.ts";
import { type Generation, generate } from "../routing/failover.ts";
import { type AnswerDeps, encodePrompt } from "./answer.ts";
import { text } from "./chat-messages.ts";
import { only, priority, promptsOf, readBody, shared, tokenIds } from "./request-fields.ts";

/** Bounds of a request, whose vectors stay in memory until sent. */
export const embeddingBounds = { inputs: 2_048, tokens: 300_000, numbers: 4_194_304 } as const;
/** Concurrent inputs per request. */
const atOnceMax = 8;

const someText = text.min(1, "must not be empty");
const many = `at most ${embeddingBounds.inputs} inputs`;

const schema = z.strictObject({
  model: shared.model,
  input: z.union(
    [
      someText,
      tokenIds,
      z.array(someText).min(1, "must not be empty").max(embeddingBounds.inputs, many),
      z.array(tokenIds).min(1, "must not be empty").max(embeddingBounds.inputs, many),
    ],
    "must be a string, a list of strings, a list of token ids or a list of such lists",
  ),
  encoding_format: z.enum(["float", "base64"], "must be float or base64").nullish(),
  /** The models were not trained for truncated vectors. */
  dimensions: z.null("this model's vectors have one size; leave it out").optional(),
  truncate_prompt_tokens: only(-1, "inputs are not truncated"),
  priority,
  cache_salt: shared.cache_salt,
  /** Accepted without effect. */
  user: shared.user,
});

type Input = { readonly text: string } | { readonly tokens: readonly number[] };

export interface EmbeddingJob {
  readonly inputs: readonly Input[];
  readonly encoding: "float" | "base64";
  readonly priority: number | undefined;
  readonly cacheSalt: string;
}

export const embeddingsFields = Object.keys(schema.shape);

export function parseEmbeddings(body: unknown, served: string): { readonly job: EmbeddingJob } | { readonly problem: Problem } {
  const read = readBody(schema, body, served);
  if ("problem" in read) return read;
  const { input, encoding_format, priority: asked, cache_salt } = read.request;
  const encoding = encoding_format ?? "float";
  return { job: { inputs: promptsOf(input), encoding, priority: asked ?? undefined, cacheSalt: cache_salt ?? "" } };
}

export async function encodeInputs(
  { inputs }: EmbeddingJob,
  deps: Pick<AnswerDeps, "textModel" | "maxContext">,
  signal?: AbortSignal,
): Promise<{ prompts: readonly (readonly number[])[] } | { problem: Problem }> {
  const prompts: (readonly number[])[] = [];
  let tokens = 0;
  for (const [index, input] of inputs.entries()) {
    const param = inputs.length === 1 ? "input" : `input[${index}]`;
    const encoded = await encodePrompt(input, param, deps, signal);
    if ("problem" in encoded) return encoded;
    tokens += encoded.ids.length;
    if (tokens > embeddingBounds.tokens) {
      const message = `\`input\`: more than ${embeddingBounds.tokens} tokens in all: send fewer inputs at a time.`;
      return { problem: invalid(message, "input", "invalid_value") };
    }
    prompts.push(Array.from(encoded.ids));
  }
  return { prompts };
}

export interface EmbeddingRequest {
  readonly id: string;
  readonly job: EmbeddingJob;
  readonly prompts: readonly (readonly number[])[];
  readonly traceparent: string;
  readonly signal: AbortSignal;
  /** Called when a worker computes the first one. */
  readonly onStarted: () => void;
}

export interface Embeddings {
  readonly vectors: readonly Float32Array[];
  readonly promptTokens: number;
  readonly failovers: number;
}

/** Throws AppError when one fails, and cancels the others. */
export async function embed(request: EmbeddingRequest, deps: AnswerDeps): Promise<Embeddings> {
  const { prompts, job, id, traceparent, onStarted } = request;
  const over = new AbortController();
  const promptTokens = prompts.reduce((sum, { length }) => sum + length, 0);
  deps.metrics.add("enodia_gateway_tokens_total", promptTokens, { kind: "prompt" });
  const common = {
    requestId: id,
    maxTokens: 1,
    eos: [],
    priority: job.priority ?? 0,
    cacheSalt: job.cacheSalt,
    embed: true,
    traceparent,
    sampling: { temperature: 0, topP: 1, topK: 0, seed: 0n, logprobs: false },
    deadlineUnixMs: deps.now() + deps.requestTimeoutMs,
    signal: AbortSignal.any([request.signal, over.signal]),
  };
  let failovers = 0;
  const onFailover = () => failovers++;
  const vectors = new Array<Float32Array>(prompts.length);
  let next = 0;
  const some = async (): Promise<void> => {
    while (next < prompts.length) {
      const index = next++;
      vectors[index] = await vectorOf({ ...common, prompt: prompts[index] as readonly number[] }, deps, { onStarted, onFailover });
      if (vectors[index].length * prompts.length > embeddingBounds.numbers) throw tooMany(vectors[index].length);
    }
  };
  try {
    await Promise.all(Array.from({ length: Math.min(atOnceMax, prompts.length) }, some));
  } finally {
    over.abort();
  }
  return { vectors, promptTokens, failovers };
}

function tooMany(size: number): AppError {
  const inputs = Math.floor(embeddingBounds.numbers / size);
  return new AppError(`input: vectors of ${size} numbers are given for ${inputs} inputs at a time`, { code: "InvalidRequest" });
}

interface Hooks {
  readonly onStarted: () => void;
  readonly onFailover: () => void;
}

async function vectorOf(generation: Generation, deps: AnswerDeps, { onStarted, onFailover }: Hooks): Promise<Float32Array> {
  const { metrics, log, now, workers, limits } = deps;
  const hooks = {
    now,
    onFailover: (reason: FailoverReason, rank: number) => {
      onFailover();
      metrics.add("enodia_gateway_failovers_total", 1, { reason });
      log.warn({ requestId: generation.requestId, rank, reason }, "an embedding is computed at another worker");
    },
  };
  let vector: Float32Array | undefined;
  for await (const event of generate(generation, workers, limits, hooks)) {
    if (event.type === "started") onStarted();
    if (event.type === "embedding") vector = Float32Array.from(event.values);
  }
  if (vector === undefined || vector.length === 0) throw new AppError("the worker gave no vector", { code: "Internal" });
  return vector;
}

export function embeddingsBody(model: string, { vectors, promptTokens }: Embeddings, encoding: EmbeddingJob["encoding"]): object {
  const shown = (vector: Float32Array) => (encoding === "float" ? Array.from(vector) : littleEndian(vector).toString("base64"));
  return {
    object: "list",
    data: vectors.map((vector, index) => ({ object: "embedding", index, embedding: shown(vector) })),
    model,
    usage: { prompt_tokens: promptTokens, total_tokens: promptTokens },
  };
}

/** Clients read little-endian float32 on any machine. */
function littleEndian(vector: Float32Array): Buffer {
  const bytes = Buffer.alloc(vector.length * Float32Array.BYTES_PER_ELEMENT);
  for (const [i, value] of vector.entries()) bytes.writeFloatLE(value, i * Float32Array.BYTES_PER_ELEMENT);
  return bytes;
}
