// The types of a request to the engine and of its events.
import type { Constraint } from "../../constraints/language.ts";

export interface EngineLimits {
  /** One more waiting request is refused with `Busy`. */
  readonly queueRequestsMax: number;
  /** The limit for a step of prompts while others decode. */
  readonly prefillChunkTokens: number;
  /** The limit for a step without decodes. */
  readonly maxBatchTokens: number;
  /** More requests alternate. */
  readonly maxDecodeBatch: number;
  /** Milliseconds that prompts may add to the time between two tokens of others. */
  readonly decodeWaitMs: number;
  /** Guesses while one request decodes alone; 0 = none. Backends whose decode steps have bits of their own ignore it. */
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

/** Products of a device with its own memory want that many rows for each expert of a layer. */
const deviceBatchTokens = 2_048;

export const limitsOn = (manyRows: boolean, given: Partial<EngineLimits> = {}): EngineLimits =>
  Object.assign({}, defaultLimits, manyRows ? { maxBatchTokens: deviceBatchTokens } : {}, given);

export interface Sampling {
  /** 0 = greedy. */
  readonly temperature: number;
  /** 1 = off. */
  readonly topP: number;
  /** 0 = off. */
  readonly topK: number;
  readonly seed: bigint;
  /** Costs a pass over the vocabulary. */
  readonly logprobs?: boolean;
  /** Unset = 0. */
  readonly topLogprobs?: number;
  /** Relative to the most likely token; unset or 0 = off. */
  readonly minP?: number;
  /** Subtracted from logits of tokens in the output; unset or 0 = off. */
  readonly presencePenalty?: number;
  /** Subtracted once per occurrence in the output; unset or 0 = off. */
  readonly frequencyPenalty?: number;
  /** Divides positive logits of tokens in prompt or output, and multiplies negative ones; unset or 1 = off. */
  readonly repetitionPenalty?: number;
  readonly bias?: readonly TokenBias[];
  /** No token of `eos` comes before so many; unset or 0 = off. */
  readonly minTokens?: number;
  readonly constraint?: Constraint;
}

interface TokenBias {
  readonly id: number;
  readonly value: number;
}

export interface RatedToken {
  readonly logprob: number;
  readonly top?: TopTokens;
}

/** The most likely tokens by the model's own logits, in descending order. */
export interface TopTokens {
  readonly ids: Uint32Array;
  readonly logprobs: Float64Array;
}

/** The part of the experts chosen for a request's rows that a rank hosts, 0 to 1. */
export interface HostShare {
  readonly rank: number;
  readonly share: number;
}

export type FinishReason = "stop" | "length" | "cancelled" | "draining";

export type GenerateEvent =
  | { readonly type: "queued"; readonly queuedTokens: number }
  | { readonly type: "started"; readonly queuedTokens: number; readonly cachedPromptTokens: number }
  /** Prompt tokens from this position on come in order, before the first output token. */
  | { readonly type: "prompt"; readonly position: number; readonly tokens: readonly RatedToken[] }
  /** A preempted request is computed again up to this position. */
  | { readonly type: "progress"; readonly position: number }
  | { readonly type: "token"; readonly id: number; readonly position: number; readonly logprob: number; readonly top?: TopTokens }
  | { readonly type: "embedding"; readonly values: Float32Array }
  | { readonly type: "finish"; readonly reason: FinishReason; readonly outputTokens: number; readonly hosts?: readonly HostShare[] };
