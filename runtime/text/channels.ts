// Answers in channels, as gpt-oss's harmony format has them: reasoning, text and calls are told apart by control tokens alone. Pure; one a
// request.
import { StopText, type TextPiece, type TokenDecoder } from "./stop-text.ts";
import type { CallDelta } from "./tools/format.ts";

/** The control tokens of the format, by their ids. */
export interface ChannelTokens {
  /** Before the role of a message. */
  readonly start: number;
  /** Before the name of its channel. */
  readonly channel: number;
  /** Before its text. */
  readonly message: number;
  /** After its text. */
  readonly end: number;
}

const contents: Readonly<Record<keyof ChannelTokens, string>> = {
  start: "<|start|>",
  channel: "<|channel|>",
  message: "<|message|>",
  end: "<|end|>",
};

/** The format's tokens in a vocabulary; undefined where one is missing. `idOf` gives the id of a control token. */
export function channelTokens(idOf: (content: string) => number | undefined): ChannelTokens | undefined {
  const [start, channel, message, end] = [idOf(contents.start), idOf(contents.channel), idOf(contents.message), idOf(contents.end)];
  if (start === undefined || channel === undefined || message === undefined || end === undefined) return undefined;
  return { start, channel, message, end };
}

/** The channel that is not for the user. */
const reasoningChannel = "analysis";
/** A tool to which a message is addressed, in what stands before its text. */
const recipient = /\bto=functions\.([a-zA-Z0-9_-]{1,64})/;
/** Characters before a message's text that are looked at: the role, the channel's name, a recipient, a type. */
const headCharactersMax = 256;

export interface ChannelPiece extends TextPiece {
  /** Of what the model says to itself. */
  readonly reasoning: string;
  /** Unset where it calls nothing. */
  readonly calls?: readonly CallDelta[];
}

/** What stands before a message's text, as it is being written. */
interface Head {
  readonly decoder: TokenDecoder;
  /** From the start of the message to its channel. */
  role: string;
  /** The channel's name, and what follows it; undefined before it. */
  channel: string | undefined;
}

/** As StopText, of which it has one for each kind of text; stop strings are looked for in what is for the user. */
export class ChannelText {
  readonly #tokens: ChannelTokens;
  readonly #newDecoder: () => TokenDecoder;
  readonly #content: StopText;
  /** The text of the message that is under way goes here; undefined between messages. */
  #into: "content" | "reasoning" | "call" | undefined = "content"; // a model may answer in no channel at all
  /** Of thoughts, or of a call's arguments. */
  #other: TokenDecoder;
  #head: Head | undefined;
  readonly #tools: boolean;
  #calls = 0;

  /** `tools`: messages to functions are calls; else they are for the user as others. */
  constructor(newDecoder: () => TokenDecoder, tokens: ChannelTokens, stops: readonly string[], tools = false) {
    this.#tokens = tokens;
    this.#newDecoder = newDecoder;
    this.#content = new StopText(newDecoder(), stops);
    this.#other = newDecoder();
    this.#tools = tools;
  }

  /** Characters for the user so far, those held back included. */
  get length(): number {
    return this.#content.length;
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

  /** The rest, when the text ended by itself. */
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

  /** More of a message that is not for the user. */
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
