// The tokenizer of a served model, as callers see it.
import type { ChannelTokens } from "./channels.ts";
import type { TokenDecoder } from "./stop-text.ts";
import type { ThoughtTokens } from "./think-text.ts";
import type { Thinking, Variables } from "./thinking.ts";
import type { Tool, ToolCall, ToolFormat } from "./tools/tool-format.ts";

export interface ChatMessage {
  readonly role: "system" | "user" | "assistant" | "tool";
  readonly content: string;
  readonly name?: string;
  readonly toolCalls?: readonly ToolCall[];
  /** The call that a tool message answers. */
  readonly toolCallId?: string;
}

/** Fast enough for the main thread. */
export interface Decoding {
  readonly vocab: number;
  readonly eosIds: readonly number[];
  /** Upper bound of characters per token. */
  readonly charsPerTokenMax: number;
  decoder(): TokenDecoder;
  readonly channels?: ChannelTokens;
  readonly thoughts?: ThoughtTokens;
  readonly thinking?: Thinking;
  /** Unset without a known call format. */
  readonly tools?: ToolFormat;
  /** Texts by id; may be empty. */
  readonly toolMarks?: ReadonlyMap<number, string>;
  /** The token's bytes for logprobs: UTF-8 text, or a part of a character. */
  piece(id: number): Uint8Array;
}

export interface TextModel extends Decoding {
  /** Control tokens count; throws as `encodeChat` does. */
  encode(text: string, signal?: AbortSignal): Promise<Uint32Array>;
  /**
   * Applies the template and generation prompt; only the template's control tokens count. Throws AppError `InvalidRequest` when the
   * template refuses the messages or is too slow, `QueueFull` when too many wait.
   */
  encodeChat(messages: readonly ChatMessage[], signal?: AbortSignal, tools?: readonly Tool[], variables?: Variables): Promise<Uint32Array>;
}
