// One request from its parsed job to its text: tokenise, check the context, generate with failover, detokenise, stop
// strings, usage. Yields pieces as they become certain. Not here: HTTP, JSON shapes (openai-body.ts), connections.
import { AppError } from "../../crds/common.ts";
import { type FailoverReason, stallParts } from "../../crds/names.ts";
import type { Log } from "../observe/log.ts";
import type { Metrics } from "../observe/metrics.ts";
import type { Span } from "../observe/trace.ts";
import { type ChannelPiece, ChannelText } from "../text/channels.ts";
import { StopText, type TextPiece } from "../text/stop-text.ts";
import type { TextModel } from "../text/text-model.ts";
import { retryAfterSeconds } from "./admission.ts";
import { type Generated, type Generation, generate, type Stall, type Workers } from "./failover.ts";
import type { GenerationJob } from "./openai.ts";
import type { FailoverLimits } from "./patience.ts";
import { invalid, type Problem, problems } from "./problem.ts";

export interface TokenLogprob {
  readonly bytes: Uint8Array;
  readonly logprob: number;
  /** The likeliest tokens of this position, as many as the client asked for. */
  readonly top: readonly { readonly bytes: Uint8Array; readonly logprob: number }[];
  /** Characters of the answer before it. */
  readonly offset: number;
}

export interface Piece {
  /** The first piece is empty: it only says that a worker computes the request. */
  readonly text: string;
  /** Of what the model says to itself; unset where it says nothing. */
  readonly reasoning?: string;
  /** Log probabilities of the tokens since the last piece; empty unless asked for. */
  readonly logprobs: readonly TokenLogprob[];
  readonly finish?: "stop" | "length";
}

/** The first piece of every answer only says that a worker computes it. */
export function isMarker({ text, reasoning, finish, logprobs }: Piece): boolean {
  return text === "" && reasoning === undefined && finish === undefined && logprobs.length === 0;
}

export interface Usage {
  readonly promptTokens: number;
  readonly outputTokens: number;
}

export interface AnswerDeps {
  readonly textModel: TextModel;
  readonly workers: Workers;
  readonly metrics: Metrics<"gateway">;
  readonly log: Log;
  readonly maxContext: number;
  readonly requestTimeoutMs: number;
  readonly limits: FailoverLimits;
  /** A seed of 64 random bits. */
  readonly drawSeed: () => bigint;
  readonly now: () => number;
}

type Encoder = Pick<AnswerDeps, "textModel" | "maxContext">;

function tooLong(maxContext: number, param: string, what: string): { problem: Problem } {
  const message = `The context holds ${maxContext} tokens, but ${what} were asked for: shorten it or lower max_tokens.`;
  return { problem: invalid(message, param, "context_length_exceeded") };
}

/** The ids of a prompt, at least one and fewer than the context holds, or what is wrong with it. `param` is the field that it came in. */
export async function encodePrompt(
  prompt: GenerationJob["prompt"],
  param: string,
  { textModel, maxContext }: Encoder,
  signal?: AbortSignal,
): Promise<{ ids: Uint32Array | readonly number[] } | { problem: Problem }> {
  // The length is checked before tokenising, which others wait for.
  const characters = charactersOf(prompt);
  if (characters > maxContext * textModel.charsPerTokenMax) return tooLong(maxContext, param, `${characters} characters of ${param}`);
  let ids: Uint32Array | readonly number[];
  try {
    if ("messages" in prompt) ids = await textModel.encodeChat(prompt.messages, signal);
    else ids = "text" in prompt ? await textModel.encode(prompt.text, signal) : prompt.tokens;
  } catch (caught) {
    const error = AppError.from(caught);
    if (error.code === "InvalidRequest") return { problem: invalid(error.message, param, "invalid_value") };
    if (error.code === "QueueFull") return { problem: problems.queueFull(retryAfterSeconds) };
    throw error;
  }
  if (ids.length === 0) return { problem: invalid(`\`${param}\` has no tokens: send some text.`, param, "invalid_value") };
  const unknown = ids.find((id) => id >= textModel.vocab);
  if (unknown !== undefined)
    return { problem: invalid(`\`${param}\`: token ${unknown} is not below ${textModel.vocab}.`, param, "invalid_value") };
  if (ids.length >= maxContext) return tooLong(maxContext, param, `${ids.length} of ${param}`);
  return { ids };
}

/** The tokenised request, or why it does not fit the model. The signal ends the wait for the tokenizer. */
export async function prepare(
  job: GenerationJob,
  deps: Encoder,
  signal?: AbortSignal,
): Promise<{ prompt: readonly number[]; maxTokens: number } | { problem: Problem }> {
  const { textModel, maxContext } = deps;
  const param = job.endpoint === "chat" ? "messages" : "prompt";
  const encoded = await encodePrompt(job.prompt, param, deps, signal);
  if ("problem" in encoded) return encoded;
  const { ids } = encoded;
  const strange = job.sampling.bias.find(({ id }) => id >= textModel.vocab);
  if (strange !== undefined)
    return { problem: invalid(`\`logit_bias\`: token ${strange.id} is not below ${textModel.vocab}.`, "logit_bias", "invalid_value") };
  const room = maxContext - ids.length;
  const maxTokens = job.maxTokens ?? room;
  if (maxTokens > room) return tooLong(maxContext, param, `${ids.length} of ${param} and ${maxTokens} of output`);
  return { prompt: Array.from(ids), maxTokens };
}

function charactersOf(prompt: GenerationJob["prompt"]): number {
  if ("text" in prompt) return prompt.text.length;
  return "messages" in prompt ? prompt.messages.reduce((sum, { content }) => sum + content.length, 0) : 0;
}

export interface AnswerRequest {
  readonly id: string;
  readonly job: GenerationJob;
  readonly prompt: readonly number[];
  readonly maxTokens: number;
  readonly span: Span;
  readonly signal: AbortSignal;
}

type Certain = TextPiece & Partial<Pick<ChannelPiece, "reasoning">>;
interface AnswerText {
  /** Characters so far. */
  readonly length: number;
  push(id: number): Certain;
  end(): Certain;
}

/** A chat with a model that answers in channels is given apart; completions show what the model says as it is. */
function answerText({ endpoint, stops }: GenerationJob, textModel: TextModel): AnswerText {
  const { channels } = textModel;
  const split = endpoint === "chat" && channels !== undefined;
  return split ? new ChannelText(() => textModel.decoder(), channels, stops) : new StopText(textModel.decoder(), stops);
}

const shown = ({ text, reasoning }: Certain): Pick<Piece, "text" | "reasoning"> => (reasoning ? { text, reasoning } : { text });

/** A running answer. `pieces` is read once; the other fields are final when it ended. */
export class Answer {
  readonly #request: AnswerRequest;
  readonly #deps: AnswerDeps;
  readonly #arrived: number;
  #logprobs: TokenLogprob[] = [];
  outputTokens = 0;
  failovers = 0;
  /** True once a worker computes it, or did. */
  started = false;

  constructor(request: AnswerRequest, deps: AnswerDeps) {
    this.#request = request;
    this.#deps = deps;
    this.#arrived = deps.now();
  }

  get usage(): Usage {
    return { promptTokens: this.#request.prompt.length, outputTokens: this.outputTokens };
  }

  async *pieces(): AsyncGenerator<Piece, void, void> {
    const { job } = this.#request;
    const { textModel, metrics } = this.#deps;
    const text = answerText(job, textModel);
    metrics.add("enodia_gateway_tokens_total", this.#request.prompt.length, { kind: "prompt" });
    let askedAt = this.#deps.now();
    for await (const event of generate(this.#generation(), this.#deps.workers, this.#deps.limits, this.#hooks())) {
      if (event.type === "token") this.#countToken(askedAt);
      const piece = this.#piece(event, text);
      if (piece !== undefined) yield piece;
      if (piece?.finish) return;
      askedAt = this.#deps.now(); // a client that reads slowly holds up the yield, not the token
    }
  }

  #piece(event: Generated, text: AnswerText): Piece | undefined {
    if (event.type === "started") {
      const first = !this.started;
      this.started = true;
      return first ? { text: "", logprobs: [] } : undefined;
    }
    if (event.type === "embedding") return undefined; // nobody asked for it
    if (event.type === "finish") {
      const rest = text.end();
      return { ...shown(rest), logprobs: this.#takeLogprobs(), finish: rest.stopped ? "stop" : event.reason };
    }
    if (this.#request.job.logprobs) {
      const { textModel } = this.#deps;
      const top = (event.top ?? []).map(({ id, logprob }) => ({ bytes: textModel.piece(id), logprob }));
      this.#logprobs.push({ bytes: textModel.piece(event.id), logprob: event.logprob, top, offset: text.length });
    }
    const certain = text.push(event.id);
    if (certain.stopped) return { ...shown(certain), logprobs: this.#takeLogprobs(), finish: "stop" };
    return certain.text === "" && !certain.reasoning ? undefined : { ...shown(certain), logprobs: this.#takeLogprobs() };
  }

  #takeLogprobs(): TokenLogprob[] {
    const taken = this.#logprobs;
    this.#logprobs = [];
    return taken;
  }

  #countToken(askedAt: number): void {
    const { metrics, now } = this.#deps;
    const at = now();
    const { traceparent } = this.#request.span;
    if (this.outputTokens === 0)
      metrics.observeTraced(traceparent, "enodia_gateway_time_to_first_token_seconds", (at - this.#arrived) / 1000);
    else metrics.observeTraced(traceparent, "enodia_gateway_inter_token_seconds", (at - askedAt) / 1000);
    this.outputTokens++;
    metrics.add("enodia_gateway_tokens_total", 1, { kind: "output" });
  }

  #generation(): Generation {
    const { id, job, prompt, maxTokens, span, signal } = this.#request;
    return {
      requestId: id,
      prompt,
      maxTokens,
      sampling: { ...job.sampling, seed: job.sampling.seed ?? this.#deps.drawSeed(), logprobs: job.logprobs },
      eos: job.ignoreEos ? [] : this.#deps.textModel.eosIds,
      priority: job.priority,
      deadlineUnixMs: this.#arrived + this.#deps.requestTimeoutMs,
      traceparent: span.traceparent,
      signal,
    };
  }

  #hooks() {
    const { metrics, log, now } = this.#deps;
    const { id: requestId, span } = this.#request;
    const { traceId } = span;
    return {
      now,
      onFailover: (reason: FailoverReason, rank: number, tokens: number, err: AppError) => {
        this.failovers++;
        metrics.add("enodia_gateway_failovers_total", 1, { reason });
        span.event("failover", { "enodia.rank": rank, "enodia.reason": reason, "enodia.tokens": tokens });
        log.warn({ requestId, traceId, rank, reason, tokens, err }, "request goes on at another worker");
      },
      onRecovered: ({ fromRank, rank, tokensReplayed, ...parts }: Stall) => {
        for (const part of stallParts) metrics.observe("enodia_gateway_stall_seconds", parts[`${part}Ms`] / 1000, { part });
        span.event("recovered", {
          "enodia.from_rank": fromRank,
          "enodia.rank": rank,
          "enodia.replay_tokens": tokensReplayed,
          "enodia.detection_ms": parts.detectionMs,
          "enodia.failover_ms": parts.failoverMs,
          "enodia.replay_ms": parts.replayMs,
        });
        log.info({ requestId, traceId, fromRank, rank, tokensReplayed, ...parts }, "request went on");
      },
    };
  }
}
