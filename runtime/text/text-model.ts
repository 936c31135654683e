// The tokenizer of a served model as its callers see it: text and chats to token ids, ids back to text. Types only; tokenizer.ts makes
// one from a model folder.
import type { TokenDecoder } from "./stop-text.ts";

export interface ChatMessage {
  readonly role: "system" | "user" | "assistant";
  readonly content: string;
  readonly name?: string;
}

/** The tokenizer of the served model. */
export interface TextModel {
  readonly vocab: number;
  readonly eosIds: readonly number[];
  /** Characters that one token holds at most. */
  readonly charsPerTokenMax: number;
  encode(text: string): readonly number[];
  /** Through the chat template, with the generation prompt; throws AppError `InvalidRequest` when the template refuses. */
  encodeChat(messages: readonly ChatMessage[]): readonly number[];
  decoder(): TokenDecoder;
  /** The bytes that one token stands for, for logprobs: text in UTF-8, or a part of a character. */
  piece(id: number): Uint8Array;
}
