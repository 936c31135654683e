// Answers in channels, as gpt-oss's harmony format has them: each message names its channel before its text. What the model says to itself
// goes apart from what it says to the user. Told by control tokens alone, which no text can contain. Pure; one per request.
import { StopText, type TextPiece, type TokenDecoder } from "./stop-text.ts";

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
/** Characters of a channel's name that are looked at; it may be followed by more, such as a recipient. */
const nameCharactersMax = 64;

export interface ChannelPiece extends TextPiece {
  /** Of what the model says to itself. */
  readonly reasoning: string;
}

/** As StopText, of which it has one for each kind of text; stop strings are looked for in what is for the user. */
export class ChannelText {
  readonly #tokens: ChannelTokens;
  readonly #newDecoder: () => TokenDecoder;
  readonly #content: StopText;
  /** The text of the message that is under way goes here; undefined between messages. */
  #into: "content" | "reasoning" | undefined = "content"; // a model may answer in no channel at all
  #reasoning: TokenDecoder;
  /** The name of a channel so far, while it is being written. */
  #name: { text: string; readonly decoder: TokenDecoder } | undefined;

  constructor(newDecoder: () => TokenDecoder, tokens: ChannelTokens, stops: readonly string[]) {
    this.#tokens = tokens;
    this.#newDecoder = newDecoder;
    this.#content = new StopText(newDecoder(), stops);
    this.#reasoning = newDecoder();
  }

  /** Characters for the user so far, those held back included. */
  get length(): number {
    return this.#content.length;
  }

  push(id: number): ChannelPiece {
    const { start, channel, message, end } = this.#tokens;
    if (id === channel) return this.#between({ text: "", decoder: this.#newDecoder() });
    if (id === start || id === end) return this.#between(undefined);
    if (id === message) {
      this.#into = this.#name?.text.trimStart().startsWith(reasoningChannel) ? "reasoning" : "content";
      this.#name = undefined;
      return { text: "", reasoning: "", stopped: false };
    }
    if (this.#name && this.#name.text.length < nameCharactersMax) this.#name.text += this.#name.decoder.push(id);
    if (this.#into === "content") return { reasoning: "", ...this.#content.push(id) };
    return { text: "", reasoning: this.#into === "reasoning" ? this.#reasoning.push(id) : "", stopped: false };
  }

  /** The rest, when the text ended by itself. */
  end(): ChannelPiece {
    return { reasoning: this.#reasoning.flush(), ...this.#content.end() };
  }

  #between(name: { text: string; readonly decoder: TokenDecoder } | undefined): ChannelPiece {
    const reasoning = this.#into === "reasoning" ? this.#reasoning.flush() : "";
    if (this.#into === "reasoning") this.#reasoning = this.#newDecoder();
    this.#into = undefined;
    this.#name = name;
    return { text: "", reasoning, stopped: false };
  }
}
