// Turns one parsed job into text: tokenize, generate with failover, detokenize, apply stop strings, count usage.
import { AppError } from "../../../crds/common.ts";
import { type FailoverReason, stallParts } from "../../../crds/names.ts";
import type { Constraint } from "../../constraints/language.ts";
import type { Log } from "../../observe/log.ts";
import type { Metrics } from "../../observe/runtime-metrics.ts";
import type { Span } from "../../observe/trace.ts";
import { type ChannelPiece, ChannelText } from "../../text/channels.ts";
import { CallText, type CallTextPiece, StopText, type TextPiece } from "../../text/stop-text.ts";
import { charactersOfChat } from "../../text/templated.ts";
import type { TextModel } from "../../text/text-model.ts";
import { opensThoughts, ThinkText } from "../../text/think-text.ts";
import type { CallDelta } from "../../text/tools/tool-format.ts";
import { invalid, type Problem, problems } from "../problem.ts";
import { promptLogprobsMax, retryAfterSeconds } from "../routing/admission.ts";
import { type Generated, type Generation, generate, type RatedToken, type Stall, type Workers } from "../routing/failover.ts";
import type { Keep } from "../routing/keep.ts";
import type { FailoverLimits } from "../routing/patience.ts";
import { type GenerationRequest, type Prompt, requestBounds } from "./generation-request.ts";
import { isHeld, languageOfCalls, misfit, promptsFor, variablesOf } from "./model-fit.ts";
import { idOf } from "./resume.ts";

export interface TokenLogprob {
  readonly bytes: Uint8Array;
  /** Null for a prompt's first token. */
  readonly logprob: number | null;
  /** The number that the client asked for. */
  readonly top: readonly { readonly bytes: Uint8Array; readonly logprob: number }[];
  /** Characters before this token. */
  readonly offset: number;
}

export interface Piece {
  /** Empty in the first piece, a marker that a worker computes the request. */
  readonly text: string;
  readonly reasoning?: string;
  /** New since the last piece. */
  readonly logprobs: readonly TokenLogprob[];
  readonly calls?: readonly AnswerCall[];
  readonly finish?: "stop" | "length" | "tool_calls";
}

/** `id` comes with the name. */
export interface AnswerCall extends CallDelta {
  readonly id?: string;
}

export function isMarker({ text, reasoning, calls, finish, logprobs }: Piece): boolean {
  return text === "" && reasoning === undefined && calls === undefined && finish === undefined && logprobs.length === 0;
}

export interface Usage {
  readonly promptTokens: number;
  /** Tokens of the prompt that the first rank had already computed. */
  readonly cachedTokens: number;
  readonly outputTokens: number;
  /** Tokens of thoughts, which count as output. */
  readonly reasoningTokens: number;
}

export interface AnswerDeps {
  readonly textModel: TextModel;
  readonly workers: Workers;
  readonly metrics: Metrics<"gateway">;
  readonly log: Log;
  readonly maxContext: number;
  readonly requestTimeoutMs: number;
  readonly limits: FailoverLimits;
  readonly drawSeed: () => bigint;
  readonly now: () => number;
}

type Encoder = Pick<AnswerDeps, "textModel" | "maxContext">;

export function tooLong(maxContext: number, param: string, what: string): { problem: Problem } {
  const message = `The context holds ${maxContext} tokens, but ${what} were asked for: shorten it or lower max_tokens.`;
  return { problem: invalid(message, param, "context_length_exceeded") };
}

/** Returns 1 to context - 1 ids, or the problem of request field `param`. */
export async function encodePrompt(
  prompt: Prompt,
  param: string,
  { textModel, maxContext }: Encoder,
  signal?: AbortSignal,
): Promise<{ ids: Uint32Array | readonly number[] } | { problem: Problem }> {
  // Checked before tokenizing, which would delay other requests.
  const characters = charactersOf(prompt);
  if (characters > maxContext * textModel.charsPerTokenMax) return tooLong(maxContext, param, `${characters} characters of ${param}`);
  let ids: Uint32Array | readonly number[];
  try {
    if ("messages" in prompt) ids = await textModel.encodeChat(prompt.messages, signal, prompt.tools, variablesOf(prompt, textModel));
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

export interface Prepared {
  readonly prompt: readonly number[];
  readonly maxTokens: number;
  /** Set when the answer repeats the prompt. */
  readonly echo?: string;
  readonly constraint?: Constraint;
}

/** The signal ends the wait for the tokenizer. */
export async function prepare(
  job: GenerationRequest,
  deps: Encoder,
  signal?: AbortSignal,
): Promise<{ readonly prompts: readonly Prepared[]; readonly promptLogprobs: number } | { readonly problem: Problem }> {
  const { textModel, maxContext } = deps;
  const name = { chat: "messages", completions: "prompt", responses: "input" }[job.endpoint];
  const problem = misfit(job, textModel);
  if (problem) return { problem };
  const held = languageOfCalls(job, textModel);
  if ("problem" in held) return held;
  const { constraint } = held;
  const prompts: Prepared[] = [];
  let tokens = 0;
  for (const [index, prompt] of promptsFor(job, constraint, textModel).entries()) {
    const param = job.prompts.length === 1 ? name : `${name}[${index}]`;
    const encoded = await encodePrompt(prompt, param, deps, signal);
    if ("problem" in encoded) return encoded;
    const { ids } = encoded;
    const capacity = maxContext - ids.length;
    const maxTokens = job.maxTokens ?? capacity;
    if (maxTokens > capacity) return tooLong(maxContext, param, `${ids.length} of ${param} and ${maxTokens} of output`);
    tokens += ids.length;
    if (tokens > requestBounds.promptTokens) return tooMany(`more than ${requestBounds.promptTokens} tokens in all`, name);
    const echo = job.echo ? { echo: textOf(prompt, ids, textModel) } : {};
    prompts.push({ prompt: Array.from(ids), maxTokens, ...echo, ...(constraint ? { constraint } : {}) });
  }
  const promptLogprobs = job.echo && job.logprobs ? tokens * job.n * (1 + job.sampling.topLogprobs) : 0;
  if (promptLogprobs > promptLogprobsMax)
    return tooMany(`${promptLogprobs} log-probabilities of prompts, at most ${promptLogprobsMax} a request`, name);
  return { prompts, promptLogprobs };
}

function tooMany(what: string, param: string): { problem: Problem } {
  return { problem: invalid(`\`${param}\`: ${what}: send fewer prompts at a time.`, param, "invalid_value") };
}

/** The prompt as sent, or its decoded tokens. */
function textOf(prompt: Prompt, ids: Iterable<number>, textModel: TextModel): string {
  if ("text" in prompt) return prompt.text;
  const decoder = textModel.decoder();
  let text = "";
  for (const id of ids) text += decoder.push(id);
  return text + decoder.flush();
}

function charactersOf(prompt: Prompt): number {
  if ("text" in prompt) return prompt.text.length;
  return "messages" in prompt ? charactersOfChat(prompt.messages, prompt.tools) : 0;
}

export interface AnswerRequest extends Prepared {
  readonly id: string;
  /** Its calls' ids are made of it. */
  readonly token: string;
  readonly keep?: Keep | undefined;
  /** The rank that is known to keep it. */
  readonly home?: number | undefined;
  readonly job: GenerationRequest;
  readonly seed: bigint;
  readonly span: Span;
  readonly signal: AbortSignal;
}

type Certain = TextPiece & Partial<Pick<ChannelPiece, "reasoning"> & Pick<CallTextPiece, "calls">>;
interface AnswerText {
  readonly inThoughts?: boolean;
  readonly length: number;
  push(id: number): Certain;
  end(): Certain;
}

/** Completions return the raw text; chats are split into reasoning, calls and text. */
function answerText({ job, prompt, constraint }: AnswerRequest, textModel: TextModel, stops: readonly string[]): AnswerText {
  const { endpoint, tools } = job;
  const { channels, thoughts, piece } = textModel;
  const reader = tools && textModel.tools?.reader?.();
  const split = endpoint !== "completions" && channels !== undefined;
  if (split && !reader) return new ChannelText(() => textModel.decoder(), channels, stops, tools !== undefined);
  const decoder = textModel.decoder();
  const inner = reader ? new CallText(decoder, stops, reader, textModel.toolMarks) : new StopText(decoder, stops);
  if (endpoint === "completions" || thoughts === undefined) return inner;
  const opened = !isHeld(job, constraint) && opensThoughts(prompt, thoughts, piece);
  return new ThinkText({ tokens: thoughts, decoder: textModel.decoder(), inner, opened, piece });
}

/** `pieces` can be read once; the other fields are final when it ended. */
export class Answer {
  readonly #request: AnswerRequest;
  readonly #deps: AnswerDeps;
  readonly #arrived: number;
  #logprobs: TokenLogprob[] = [];
  readonly #rated: RatedToken[] = [];
  /** None before the least number of tokens. */
  readonly #stops: string[] = [];
  #echoed = false;
  #calls = 0;
  cachedTokens = 0;
  outputTokens = 0;
  reasoningTokens = 0;
  failovers = 0;
  started = false;

  constructor(request: AnswerRequest, deps: AnswerDeps) {
    this.#request = request;
    this.#deps = deps;
    this.#arrived = deps.now();
  }

  get usage(): Usage {
    return {
      promptTokens: this.#request.prompt.length,
      cachedTokens: this.cachedTokens,
      outputTokens: this.outputTokens,
      reasoningTokens: this.reasoningTokens,
    };
  }

  async *pieces(): AsyncGenerator<Piece, void, void> {
    const text = answerText(this.#request, this.#deps.textModel, this.#stops);
    const { keep } = this.#request;
    const looksUp = keep?.isNew === false && this.#request.home === undefined;
    const home = looksUp ? (await this.#deps.workers.kept?.(keep.id))?.rank : this.#request.home;
    let askedAt = this.#deps.now();
    for await (const event of generate(this.#generation(home), this.#deps.workers, this.#deps.limits, this.#hooks())) {
      if (event.type === "prompt") this.#rated.push(...event.tokens);
      if (event.type === "token" || event.type === "finish") {
        const echo = this.#echo();
        if (echo !== undefined) yield echo;
      }
      if (event.type === "token" && this.#request.maxTokens === 0) continue; // the worker makes at least one
      if (event.type === "token") this.#countToken(askedAt);
      const piece = this.#piece(event, text);
      if (piece !== undefined) yield piece;
      if (piece?.finish) return;
      askedAt = this.#deps.now(); // excludes the time that the client takes to read
    }
  }

  #piece(event: Generated, text: AnswerText): Piece | undefined {
    if (event.type === "started") {
      const first = !this.started;
      this.started = true;
      if (first) this.cachedTokens = Math.min(event.cachedTokens, this.#request.prompt.length);
      return first ? { text: "", logprobs: [] } : undefined;
    }
    if (event.type === "embedding" || event.type === "prompt") return undefined;
    if (event.type === "finish") {
      const rest = text.end();
      return { ...this.#shown(rest), logprobs: this.#takeLogprobs(), finish: rest.stopped ? "stop" : this.#finish(event.reason) };
    }
    if (this.#request.job.logprobs) {
      const { textModel } = this.#deps;
      const top = (event.top ?? []).map(({ id, logprob }) => ({ bytes: textModel.piece(id), logprob }));
      const offset = (this.#request.echo?.length ?? 0) + text.length;
      this.#logprobs.push({ bytes: textModel.piece(event.id), logprob: event.logprob, top, offset });
    }
    const certain = text.push(event.id);
    if (text.inThoughts) this.reasoningTokens++;
    if (certain.stopped) return { ...this.#shown(certain), logprobs: this.#takeLogprobs(), finish: "stop" };
    const piece = this.#shown(certain);
    return piece.text === "" && !piece.reasoning && !piece.calls ? undefined : { ...piece, logprobs: this.#takeLogprobs() };
  }

  #shown({ text, reasoning, calls = [] }: Certain): Pick<Piece, "text" | "reasoning" | "calls"> {
    const { token } = this.#request;
    const named = calls.map((call) => (call.name === undefined ? call : { ...call, id: `call_${idOf(token, "call", this.#calls++)}` }));
    return { text, ...(reasoning ? { reasoning } : {}), ...(named.length > 0 ? { calls: named } : {}) };
  }

  #finish(reason: "stop" | "length"): Piece["finish"] & string {
    if (this.#request.maxTokens === 0) return "length"; // however the hidden token would have ended it
    return reason === "stop" && this.#calls > 0 ? "tool_calls" : reason;
  }

  #echo(): Piece | undefined {
    const { echo, job } = this.#request;
    if (echo === undefined || this.#echoed) return undefined;
    this.#echoed = true;
    return { text: echo, logprobs: job.logprobs ? this.#promptLogprobs() : [] };
  }

  #promptLogprobs(): TokenLogprob[] {
    const { prompt } = this.#request;
    const { textModel } = this.#deps;
    const decoder = textModel.decoder();
    let offset = 0;
    return prompt.map((id, at) => {
      const rated = at === 0 ? undefined : this.#rated[at - 1];
      const top = (rated?.top ?? []).map((one) => ({ bytes: textModel.piece(one.id), logprob: one.logprob }));
      const token = { bytes: textModel.piece(id), logprob: rated?.logprob ?? null, top, offset };
      offset += decoder.push(id).length;
      return token;
    });
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
    const { stops, sampling } = this.#request.job;
    if (this.#stops.length === 0 && this.outputTokens > (sampling.minTokens ?? 0)) this.#stops.push(...stops);
    metrics.add("enodia_gateway_tokens_total", 1, { kind: "output" });
  }

  #generation(home: number | undefined): Generation {
    const { id, keep, job, prompt, maxTokens, seed, echo, constraint = job.sampling.constraint, span, signal } = this.#request;
    return {
      requestId: id,
      prompt,
      maxTokens: Math.max(1, maxTokens),
      sampling: { ...job.sampling, seed, logprobs: job.logprobs, ...(constraint ? { constraint } : {}) },
      promptLogprobs: echo !== undefined && job.logprobs,
      eos: [...(job.ignoreEos ? [] : this.#deps.textModel.eosIds), ...(job.stopTokens ?? [])],
      priority: job.priority ?? 0,
      cacheSalt: job.cacheSalt,
      ...(keep ? { keep, home } : {}),
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
      onHandover: (fromRank: number, rank: number, ms: number) => {
        metrics.observe("enodia_gateway_handover_seconds", ms / 1000);
        span.event("handover", { "enodia.from_rank": fromRank, "enodia.rank": rank, "enodia.handover_ms": ms });
      },
    };
  }
}
