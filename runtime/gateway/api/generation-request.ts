// The endpoint-neutral form of a generation request, and its bounds.
import type { Constraint } from "../../constraints/language.ts";
import type { ChatMessage } from "../../text/text-model.ts";
import type { Effort, Variables } from "../../text/thinking.ts";
import type { Tool } from "../../text/tools/tool-format.ts";
import type { ToolUse } from "./tool-use.ts";

export const requestBounds = {
  stops: 4,
  stopChars: 500,
  stopTokens: 64,
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
  cacheSaltChars: 256,
  prompts: 128,
  /** Total over all prompts. */
  choices: 128,
} as const;

interface JobSampling {
  readonly temperature: number;
  readonly topP: number;
  readonly topK: number;
  /** Undefined: the gateway draws one. */
  readonly seed: bigint | undefined;
  readonly minP: number;
  readonly presencePenalty: number;
  readonly frequencyPenalty: number;
  readonly repetitionPenalty: number;
  readonly bias: readonly { readonly id: number; readonly value: number }[];
  /** Alternatives per token; 0 = none. */
  readonly topLogprobs: number;
  /** Neither an end nor a stop string counts before so many. */
  readonly minTokens?: number;
  readonly constraint?: Constraint;
}

export interface Chat {
  readonly messages: readonly ChatMessage[];
  readonly tools: readonly Tool[];
  /** Undefined: the model's default. */
  readonly effort?: Effort;
  /** They go before those of the effort. */
  readonly variables?: Variables;
}

export type Prompt = Chat | { readonly text: string } | { readonly tokens: readonly number[] };

export interface GenerationRequest {
  readonly endpoint: "chat" | "completions" | "responses";
  /** A chat has one. */
  readonly prompts: readonly Prompt[];
  /** Answers per prompt. */
  readonly n: number;
  /** Each answer begins with its prompt. */
  readonly echo: boolean;
  /** Undefined without tools. */
  readonly tools?: ToolUse;
  /** Undefined: the rest of the context; 0 only with `echo`. */
  readonly maxTokens: number | undefined;
  readonly sampling: JobSampling;
  readonly stops: readonly string[];
  /** Tokens that end the answer beside the model's own. */
  readonly stopTokens?: readonly number[];
  readonly ignoreEos: boolean;
  readonly logprobs: boolean;
  /** Lower goes first; undefined where the client named none. */
  readonly priority: number | undefined;
  /** Only requests with the same one share what was computed for their prompts; "" = without one. */
  readonly cacheSalt: string;
  readonly stream: boolean;
  /** Chunks of a stream that have the usage. */
  readonly usageIn: "none" | "last" | "every";
}
