// The bodies of answers in OpenAI's shapes: whole and in chunks, chat and completions, and the model list. Pure.
import type { Piece, TokenLogprob, Usage } from "./answer.ts";

/** The fields that stay the same in all chunks of an answer. */
export interface Envelope {
  readonly endpoint: "chat" | "completions";
  readonly id: string;
  /** Unix seconds. */
  readonly created: number;
  readonly model: string;
  readonly logprobs: boolean;
}

export function wholeBody(envelope: Envelope, pieces: readonly Piece[], usage: Usage): object {
  const text = pieces.map((piece) => piece.text).join("");
  const finish = pieces.at(-1)?.finish ?? null;
  const logprobs = logprobsOf(
    envelope,
    pieces.flatMap((piece) => piece.logprobs),
  );
  const choice =
    envelope.endpoint === "chat"
      ? { index: 0, message: { role: "assistant", content: text, ...reasoningOf(pieces), refusal: null }, logprobs, finish_reason: finish }
      : { index: 0, text, logprobs, finish_reason: finish };
  return {
    ...head(envelope, envelope.endpoint === "chat" ? "chat.completion" : "text_completion"),
    choices: [choice],
    usage: usageBody(usage),
  };
}

/** What the model said to itself, under the name that vLLM gives it; nothing where it said nothing. */
function reasoningOf(pieces: readonly Piece[]): { readonly reasoning_content?: string } {
  const reasoning_content = pieces.map(({ reasoning = "" }) => reasoning).join("");
  return reasoning_content === "" ? {} : { reasoning_content };
}

/** Makes the chunks of one stream. */
export class ChunkWriter {
  readonly #envelope: Envelope;
  readonly #includeUsage: boolean;

  constructor(envelope: Envelope, includeUsage: boolean) {
    this.#envelope = envelope;
    this.#includeUsage = includeUsage;
  }

  /** Chat streams begin with the role; completions with the first text. */
  first(): object | undefined {
    return this.#envelope.endpoint === "chat"
      ? this.#chunk([{ index: 0, delta: { role: "assistant", content: "" }, logprobs: null, finish_reason: null }])
      : undefined;
  }

  piece(piece: Piece): object {
    const logprobs = logprobsOf(this.#envelope, piece.logprobs);
    const finish_reason = piece.finish ?? null;
    if (this.#envelope.endpoint === "completions") return this.#chunk([{ index: 0, text: piece.text, logprobs, finish_reason }]);
    const delta = { ...reasoningOf([piece]), ...(piece.text === "" ? {} : { content: piece.text }) };
    return this.#chunk([{ index: 0, delta, logprobs, finish_reason }]);
  }

  /** The chunk after the last piece, when the client asked for it. */
  usage(usage: Usage): object | undefined {
    return this.#includeUsage ? { ...this.#chunk([]), usage: usageBody(usage) } : undefined;
  }

  #chunk(choices: readonly object[]): object {
    const object = this.#envelope.endpoint === "chat" ? "chat.completion.chunk" : "text_completion";
    return { ...head(this.#envelope, object), choices, ...(this.#includeUsage ? { usage: null } : {}) };
  }
}

export function modelBody(name: string, created: number, maxContext: number): object {
  return { id: name, object: "model", created, owned_by: "enodia", max_model_len: maxContext };
}

function head(envelope: Envelope, object: string): object {
  return { id: envelope.id, object, created: envelope.created, model: envelope.model };
}

function usageBody(usage: Usage): object {
  return {
    prompt_tokens: usage.promptTokens,
    completion_tokens: usage.outputTokens,
    total_tokens: usage.promptTokens + usage.outputTokens,
  };
}

function logprobsOf(envelope: Envelope, tokens: readonly TokenLogprob[]): object | null {
  if (!envelope.logprobs) return null;
  if (envelope.endpoint === "chat") {
    const shown = ({ bytes, logprob }: Pick<TokenLogprob, "bytes" | "logprob">) => ({ token: textOf(bytes), logprob, bytes: [...bytes] });
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

/** The likeliest tokens by their text, the chosen one always among them, as in the original API. */
function topByText({ top, bytes, logprob }: TokenLogprob): Record<string, number> {
  const shown = top.map((one) => [textOf(one.bytes), one.logprob] as const);
  return Object.fromEntries([[textOf(bytes), logprob] as const, ...shown]);
}

/** A part of a character shows as U+FFFD; its bytes are exact. */
function textOf(bytes: Uint8Array): string {
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
}
