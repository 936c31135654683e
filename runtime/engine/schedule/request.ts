// A request to the engine and the events that come out of it. Types only; the rest of the engine's interface is in engine/api.ts.
import type { Constraint } from "../../constraints/language.ts";

export interface EngineLimits {
  /** Requests that wait for a slot; one more is refused with `Busy`. */
  readonly queueRequestsMax: number;
  /** Prompt tokens of a step in which others decode, at most. */
  readonly prefillChunkTokens: number;
  /** Prompt tokens of a step in which nobody decodes: large products are the fastest. */
  readonly maxBatchTokens: number;
  /** Requests that decode in one step; more take turns. */
  readonly maxDecodeBatch: number;
  /** Milliseconds that prompts may add to a step in which others decode, by which chunks shrink; Infinity = chunks do not shrink. */
  readonly decodeWaitMs: number;
  /** Tokens guessed from the text so far that are computed with the next one, while one request decodes alone; 0 = none. Where a
   *  backend's decode steps have bits of their own there are none. */
  readonly draftTokens: number;
}

export const defaultLimits: EngineLimits = {
  queueRequestsMax: 64,
  prefillChunkTokens: 128,
  maxBatchTokens: 256,
  maxDecodeBatch: 64,
  decodeWaitMs: 20,
  draftTokens: 0,
};

export interface Sampling {
  /** The sampling temperature; 0 = greedy. */
  readonly temperature: number;
  /** The probability that the tokens to sample from must reach together; 1 = off. */
  readonly topP: number;
  /** The number of most likely tokens to sample from; 0 = off. */
  readonly topK: number;
  readonly seed: bigint;
  /** Compute the log-probability of each token (costs a pass over the vocabulary). */
  readonly logprobs?: boolean;
  /** The number of most likely tokens whose log-probabilities are reported beside; unset = 0. */
  readonly topLogprobs?: number;
  /** The least probability of a token, as a share of the likeliest one's; unset or 0 = off. */
  readonly minP?: number;
  /** Taken from the logit of each token that the output has; unset or 0 = off. */
  readonly presencePenalty?: number;
  /** Taken from the logit of a token for each time that the output has it; unset or 0 = off. */
  readonly frequencyPenalty?: number;
  /** Divides positive logits of tokens that prompt or output have, and multiplies negative ones; unset or 1 = off. */
  readonly repetitionPenalty?: number;
  /** Added to the logits of these tokens. */
  readonly bias?: readonly TokenBias[];
  /** The language that the text must be of. */
  readonly constraint?: Constraint;
}

interface TokenBias {
  readonly id: number;
  readonly value: number;
}

/** What a known token is worth by the tokens before it. */
export interface RatedToken {
  readonly logprob: number;
  readonly top?: TopTokens;
}

/** The most likely tokens of a position by the model's own logits, the likeliest first. */
export interface TopTokens {
  readonly ids: Uint32Array;
  readonly logprobs: Float64Array;
}

export type FinishReason = "stop" | "length" | "cancelled" | "draining";

export type GenerateEvent =
  /** The request was accepted; this comes first, and at once. */
  | { readonly type: "queued"; readonly queuedTokens: number }
  /** The request has a KV slot. */
  | { readonly type: "started"; readonly queuedTokens: number; readonly cachedPromptTokens: number }
  /** What the prompt's tokens from this position on are worth, for a request that asked for it: in order, before the first token. */
  | { readonly type: "prompt"; readonly position: number; readonly tokens: readonly RatedToken[] }
  /** The tokens up to this position are known and computed again. */
  | { readonly type: "progress"; readonly position: number }
  | { readonly type: "token"; readonly id: number; readonly position: number; readonly logprob: number; readonly top?: TopTokens }
  /** The vector of the prompt, of length 1, for a request that asked for it. */
  | { readonly type: "embedding"; readonly values: Float32Array }
  | { readonly type: "finish"; readonly reason: FinishReason; readonly outputTokens: number };
