// The neutral form of a request for text, whichever endpoint it came by: what the parsers make and answers are made of. Types and bounds.
import type { Constraint } from "../../constraints/language.ts";
import type { ChatMessage } from "../../text/text-model.ts";
import type { Effort } from "../../text/thinking/switch.ts";
import type { Tool } from "../../text/tools/format.ts";
import type { ToolUse } from "./tool-use.ts";

export const requestBounds = {
  stops: 4,
  stopChars: 500,
  messages: 2048,
  promptTokens: 1_048_576,
  temperature: 2,
  topK: 1_000_000,
  maxTokens: 1_000_000,
  topLogprobs: 20,
  penalty: 2,
  repetitionPenalty: 10,
  biases: 1_024,
  bias: 100,
  priority: 2 ** 31 - 1,
  prompts: 128,
  /** Answers of one request, of all its prompts together. */
  choices: 128,
} as const;

interface JobSampling {
  readonly temperature: number;
  readonly topP: number;
  readonly topK: number;
  /** The seed; when undefined the gateway draws one. */
  readonly seed: bigint | undefined;
  readonly minP: number;
  readonly presencePenalty: number;
  readonly frequencyPenalty: number;
  readonly repetitionPenalty: number;
  readonly bias: readonly { readonly id: number; readonly value: number }[];
  /** Tokens told beside each; 0 = none. */
  readonly topLogprobs: number;
  readonly constraint?: Constraint;
}

interface Chat {
  readonly messages: readonly ChatMessage[];
  readonly tools: readonly Tool[];
  /** How much to think; as the model does where it is not said. */
  readonly effort?: Effort;
}

export type Prompt = Chat | { readonly text: string } | { readonly tokens: readonly number[] };

export interface GenerationJob {
  readonly endpoint: "chat" | "completions" | "responses";
  /** One of a chat. */
  readonly prompts: readonly Prompt[];
  /** Answers to each prompt. */
  readonly n: number;
  /** Each answer begins with its prompt. */
  readonly echo: boolean;
  /** The tools that answers may call; undefined where they call none. */
  readonly tools?: ToolUse;
  /** The most tokens to make; when undefined as many as the context allows; 0 only where the prompt is shown. */
  readonly maxTokens: number | undefined;
  readonly sampling: JobSampling;
  readonly stops: readonly string[];
  readonly ignoreEos: boolean;
  readonly logprobs: boolean;
  /** Of two requests that wait, the one with the lower number goes first; unset where the client named none. */
  readonly priority: number | undefined;
  readonly stream: boolean;
  readonly includeUsage: boolean;
}
