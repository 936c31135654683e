// The tokenizer of a served model as its callers see it: text and chats to token ids, ids back to text. Types only; tokenizer.ts makes
// one from a model folder, text-thread.ts one that works beside its caller.
import type { ChannelTokens } from "./channels.ts";
import type { TokenDecoder } from "./stop-text.ts";
import type { ThoughtTokens } from "./think-text.ts";
import type { Thinking } from "./thinking/index.ts";
import type { Effort } from "./thinking/switch.ts";
import type { Tool, ToolCall, ToolFormat } from "./tools/format.ts";

export interface ChatMessage {
  readonly role: "system" | "user" | "assistant" | "tool";
  readonly content: string;
  readonly name?: string;
  /** Calls that an assistant made. */
  readonly toolCalls?: readonly ToolCall[];
  /** The call that a tool answers. */
  readonly toolCallId?: string;
}

/** Token ids to text. A token takes no time worth the name, so this is called wherever tokens come. */
export interface Decoding {
  readonly vocab: number;
  readonly eosIds: readonly number[];
  /** Characters that one token holds at most. */
  readonly charsPerTokenMax: number;
  decoder(): TokenDecoder;
  /** Set where the model's answers come in channels. */
  readonly channels?: ChannelTokens;
  /** Set where answers may begin with thoughts between marks. */
  readonly thoughts?: ThoughtTokens;
  /** Set where the chat template can be told how much to think. */
  readonly thinking?: Thinking;
  /** Set where the chat template takes tools and writes their calls in a known way. */
  readonly tools?: ToolFormat;
  /** Control tokens that calls are told by, by their ids; empty where there are none. */
  readonly toolMarks?: ReadonlyMap<number, string>;
  /** The bytes that one token stands for, for logprobs: text in UTF-8, or a part of a character. */
  piece(id: number): Uint8Array;
}

/** The tokenizer of the served model. */
export interface TextModel extends Decoding {
  /** Text as it is, control tokens included; throws as `encodeChat` does. */
  encode(text: string, signal?: AbortSignal): Promise<Uint32Array>;
  /**
   * Through the chat template, with the generation prompt. Control tokens count where the template writes them alone. Throws AppError
   * `InvalidRequest` when the template refuses the messages or takes too long for them, `QueueFull` when too many others wait.
   */
  encodeChat(messages: readonly ChatMessage[], signal?: AbortSignal, tools?: readonly Tool[], effort?: Effort): Promise<Uint32Array>;
}
