// Splits answers in channels, gpt-oss's harmony format, into reasoning, text and calls by control tokens. One instance per answer.
import { StopText, type TextPiece, type TokenDecoder } from "./stop-text.ts";
import type { CallDelta } from "./tools/tool-format.ts";

/** Ids of the format's control tokens. */
export interface ChannelTokens {
  readonly start: number;
  readonly channel: number;
  readonly message: number;
  readonly end: number;
}

const contents: Readonly<Record<keyof ChannelTokens, string>> = {
  start: "<|start|>",
  channel: "<|channel|>",
  message: "<|message|>",
  end: "<|end|>",
};

export function channelTokens(idOf: (content: string) => number | undefined): ChannelTokens | undefined {
  const [start, channel, message, end] = [idOf(contents.start), idOf(contents.channel), idOf(contents.message), idOf(contents.end)];
  if (start === undefined || channel === undefined || message === undefined || end === undefined) return undefined;
  return { start, channel, message, end };
}

const reasoningChannel = "analysis";
/** The tool that a message header addresses. */
const recipient = /\bto=functions\.([a-zA-Z0-9_-]{1,64})/;
/** Header characters that are parsed: role, channel, recipient, type. */
const headCharactersMax = 256;

export interface ChannelPiece extends TextPiece {
  readonly reasoning: string;
  /** Unset without calls. */
  readonly calls?: readonly CallDelta[];
}

interface Head {
  readonly decoder: TokenDecoder;
  role: string;
  channel: string | undefined;
}

/** Like StopText, with one per kind of text; stop strings apply to the user's text only. */
export class ChannelText {
  readonly #tokens: ChannelTokens;
  readonly #newDecoder: () => TokenDecoder;
  readonly #content: StopText;
  #into: "content" | "reasoning" | "call" | undefined = "content"; // a model may answer in no channel at all
  #other: TokenDecoder;
  #head: Head | undefined;
  readonly #tools: boolean;
  #calls = 0;

  /** Messages to functions are text for the user unless `tools` is set. */
  constructor(newDecoder: () => TokenDecoder, tokens: ChannelTokens, stops: readonly string[], tools = false) {
    this.#tokens = tokens;
    this.#newDecoder = newDecoder;
    this.#content = new StopText(newDecoder(), stops);
    this.#other = newDecoder();
    this.#tools = tools;
  }

  /** Includes held-back characters of the user's text. */
  get length(): number {
    return this.#content.length;
  }

  get inThoughts(): boolean {
    return this.#into === "reasoning";
  }

  push(id: number): ChannelPiece {
    const { start, channel, message, end } = this.#tokens;
    if (id === channel) {
      const { role = "" } = this.#head ?? {};
      return this.#between({ decoder: this.#newDecoder(), role, channel: "" });
    }
    if (id === start) return this.#between({ decoder: this.#newDecoder(), role: "", channel: undefined });
    if (id === end) return this.#between(undefined);
    if (id === message) return this.#message();
    if (this.#head) this.#readHead(this.#head, id);
    if (this.#into === "content") return { reasoning: "", ...this.#content.push(id) };
    return this.#pieceOf(this.#into === undefined ? "" : this.#other.push(id));
  }

  end(): ChannelPiece {
    return { ...this.#pieceOf(this.#other.flush()), ...this.#content.end() };
  }

  #readHead(head: Head, id: number): void {
    if (head.role.length + (head.channel?.length ?? 0) >= headCharactersMax) return;
    if (head.channel === undefined) head.role += head.decoder.push(id);
    else head.channel += head.decoder.push(id);
  }

  #message(): ChannelPiece {
    const { role = "", channel = "" } = this.#head ?? {};
    this.#head = undefined;
    const name = this.#tools ? (recipient.exec(channel)?.[1] ?? recipient.exec(role)?.[1]) : undefined;
    if (name !== undefined) {
      this.#into = "call";
      return { text: "", reasoning: "", stopped: false, calls: [{ index: this.#calls++, name }] };
    }
    this.#into = channel.trimStart().startsWith(reasoningChannel) ? "reasoning" : "content";
    return { text: "", reasoning: "", stopped: false };
  }

  #pieceOf(text: string): ChannelPiece {
    const piece = { text: "", reasoning: this.#into === "reasoning" ? text : "", stopped: false };
    return this.#into === "call" && text !== "" ? { ...piece, calls: [{ index: this.#calls - 1, arguments: text }] } : piece;
  }

  #between(head: Head | undefined): ChannelPiece {
    const keeps = this.#into === "reasoning" || this.#into === "call";
    const piece = this.#pieceOf(keeps ? this.#other.flush() : "");
    if (keeps) this.#other = this.#newDecoder();
    this.#into = undefined;
    this.#head = head;
    return piece;
  }
}
