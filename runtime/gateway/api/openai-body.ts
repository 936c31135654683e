// Response bodies of chats, completions and the model list, whole and chunked.
import { problemBody } from "../problem.ts";
import { type AnswerCall, isMarker, type Piece, type TokenLogprob, type Usage } from "./answer.ts";
import type { AnswerWriter, WriterStart } from "./choices.ts";
import type { GenerationRequest } from "./generation-request.ts";
import { sseData } from "./sse.ts";

export interface Envelope {
  readonly endpoint: "chat" | "completions";
  readonly id: string;
  /** Unix seconds. */
  readonly created: number;
  readonly model: string;
  readonly logprobs: boolean;
  readonly fingerprint?: string | undefined;
}

export function completionWriter(job: Pick<Envelope, "endpoint" | "logprobs"> & Pick<GenerationRequest, "usageIn">) {
  return ({ model, created, token, fingerprint }: WriterStart): AnswerWriter => {
    const { endpoint, logprobs, usageIn } = job;
    const id = `${endpoint === "chat" ? "chatcmpl" : "cmpl"}-${token}`;
    const envelope: Envelope = { endpoint, id, created, model, logprobs, fingerprint };
    const chunks = new ChunkWriter(envelope, usageIn);
    const some = (body: object | undefined) => (body ? [sseData(body)] : []);
    return {
      id,
      whole: (answers, usage) => wholeBody(envelope, answers, usage),
      events: ({ index, piece }, usage) => some(chunks.counted(isMarker(piece) ? chunks.first(index) : chunks.piece(piece, index), usage)),
      last: (usage) => [...some(chunks.usage(usage)), sseData("[DONE]")],
      failed: (problem) => [sseData(problemBody(problem))],
    };
  };
}

/** `answers`: the pieces of each. */
export function wholeBody(envelope: Envelope, answers: readonly (readonly Piece[])[], usage: Usage): object {
  return {
    ...head(envelope, envelope.endpoint === "chat" ? "chat.completion" : "text_completion"),
    choices: answers.map((pieces, index) => wholeChoice(envelope, pieces, index)),
    usage: usageBody(usage),
  };
}

function wholeChoice(envelope: Envelope, pieces: readonly Piece[], index: number): object {
  const text = pieces.map((piece) => piece.text).join("");
  const finish = pieces.at(-1)?.finish ?? null;
  const logprobs = logprobsOf(
    envelope,
    pieces.flatMap((piece) => piece.logprobs),
  );
  if (envelope.endpoint === "completions") return { index, text, logprobs, finish_reason: finish };
  const calls = callsOf(pieces);
  const spoken = calls.length > 0 ? { content: text === "" ? null : text, tool_calls: calls } : { content: text };
  return { index, message: { role: "assistant", ...spoken, ...reasoningOf(pieces), refusal: null }, logprobs, finish_reason: finish };
}

interface WholeCall {
  readonly id: string;
  readonly type: "function";
  readonly function: { readonly name: string; readonly arguments: string };
}

function callsOf(pieces: readonly Piece[]): WholeCall[] {
  const found = new Map<number, { id: string; name: string; arguments: string }>();
  for (const { index, id = "", name = "", arguments: more = "" } of pieces.flatMap(({ calls = [] }) => calls)) {
    const call = found.get(index) ?? { id: "", name: "", arguments: "" };
    found.set(index, { id: call.id + id, name: call.name + name, arguments: call.arguments + more });
  }
  return [...found.values()].map(({ id, name, arguments: all }) => ({ id, type: "function", function: { name, arguments: all } }));
}

/** Each call has id, type and name once. */
function deltasOf(calls: readonly AnswerCall[]): object[] {
  return calls.map(({ index, id, name, arguments: more = "" }) =>
    id === undefined ? { index, function: { arguments: more } } : { index, id, type: "function", function: { name, arguments: more } },
  );
}

/** vLLM's field name; empty without reasoning. */
function reasoningOf(pieces: readonly Piece[]): { readonly reasoning_content?: string } {
  const reasoning_content = pieces.map(({ reasoning = "" }) => reasoning).join("");
  return reasoning_content === "" ? {} : { reasoning_content };
}

export class ChunkWriter {
  readonly #envelope: Envelope;
  readonly #usageIn: GenerationRequest["usageIn"];

  constructor(envelope: Envelope, usageIn: GenerationRequest["usageIn"]) {
    this.#envelope = envelope;
    this.#usageIn = usageIn;
  }

  /** It has what was counted so far, where every chunk has it. */
  counted(chunk: object | undefined, usage: Usage): object | undefined {
    return chunk && this.#usageIn === "every" ? { ...chunk, usage: usageBody(usage) } : chunk;
  }

  /** Chat streams begin with the role, completions with the first text. */
  first(index: number): object | undefined {
    return this.#envelope.endpoint === "chat"
      ? this.#chunk([{ index, delta: { role: "assistant", content: "" }, logprobs: null, finish_reason: null }])
      : undefined;
  }

  piece(piece: Piece, index: number): object {
    const logprobs = logprobsOf(this.#envelope, piece.logprobs);
    const finish_reason = piece.finish ?? null;
    if (this.#envelope.endpoint === "completions") return this.#chunk([{ index, text: piece.text, logprobs, finish_reason }]);
    const calls = piece.calls ? { tool_calls: deltasOf(piece.calls) } : {};
    const delta = { ...reasoningOf([piece]), ...(piece.text === "" ? {} : { content: piece.text }), ...calls };
    return this.#chunk([{ index, delta, logprobs, finish_reason }]);
  }

  /** Sent when the client asked for it. */
  usage(usage: Usage): object | undefined {
    return this.#usageIn !== "none" ? { ...this.#chunk([]), usage: usageBody(usage) } : undefined;
  }

  #chunk(choices: readonly object[]): object {
    const object = this.#envelope.endpoint === "chat" ? "chat.completion.chunk" : "text_completion";
    return { ...head(this.#envelope, object), choices, ...(this.#usageIn === "none" ? {} : { usage: null }) };
  }
}

export function modelBody(name: string, created: number, maxContext: number): object {
  return { id: name, object: "model", created, owned_by: "enodia", max_model_len: maxContext };
}

function head({ id, created, model, fingerprint }: Envelope, object: string): object {
  return { id, object, created, model, system_fingerprint: fingerprint ?? null };
}

function usageBody(usage: Usage): object {
  return {
    prompt_tokens: usage.promptTokens,
    completion_tokens: usage.outputTokens,
    total_tokens: usage.promptTokens + usage.outputTokens,
    prompt_tokens_details: { cached_tokens: usage.cachedTokens },
    completion_tokens_details: { reasoning_tokens: usage.reasoningTokens },
  };
}

function logprobsOf(envelope: Envelope, tokens: readonly TokenLogprob[]): object | null {
  if (!envelope.logprobs) return null;
  if (envelope.endpoint === "chat") {
    const shown = ({ bytes, logprob }: Shown) => ({ token: textOf(bytes), logprob, bytes: [...bytes] });
    const content = tokens.map((token) => ({ ...shown(token), top_logprobs: token.top.map(shown) }));
    return { content, refusal: null };
  }
  return {
    tokens: tokens.map(({ bytes }) => textOf(bytes)),
    token_logprobs: tokens.map(({ logprob }) => logprob),
    top_logprobs: tokens.some(({ top }) => top.length > 0) ? tokens.map(topByText) : null,
    text_offset: tokens.map(({ offset }) => offset),
  };
}

type Shown = Pick<TokenLogprob, "bytes" | "logprob">;

/** Includes the chosen token, as in the original API; null for a prompt's first token. */
function topByText({ top, bytes, logprob }: TokenLogprob): Record<string, number> | null {
  if (logprob === null) return null;
  const shown = top.map((one) => [textOf(one.bytes), one.logprob] as const);
  return Object.fromEntries([[textOf(bytes), logprob] as const, ...shown]);
}

/** A part of a character shows as U+FFFD; its bytes are exact. */
function textOf(bytes: Uint8Array): string {
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
}
