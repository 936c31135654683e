// A request to the engine and the events that come out of it. Types only; the rest of the engine's interface is in engine/api.ts.

export interface EngineLimits {
  /** Requests that wait for a slot; one more is refused with `Busy`. */
  readonly queueRequestsMax: number;
  /** Prompt tokens of a step between two decode steps, at most. */
  readonly prefillChunkTokens: number;
  /** Prompt tokens of a step while nobody decodes: large products are the fastest. */
  readonly maxBatchTokens: number;
  /** Requests of one decode step; more take turns. */
  readonly maxDecodeBatch: number;
  /** Milliseconds of compute that prompts may take between two decode steps, by which chunks shrink; Infinity = chunks do not shrink. */
  readonly decodeWaitMs: number;
  /** Tokens guessed from the text so far that are computed with the next one, while one request decodes alone; 0 = none. Where a
   *  backend's decode steps have bits of their own there are none. */
  readonly draftTokens: number;
}

export interface Sampling {
  /** The sampling temperature; 0 = greedy. */
  readonly temperature: number;
  /** The probability that the tokens to sample from must reach together; 1 = off. */
  readonly topP: number;
  /** The number of most likely tokens to sample from; 0 = off. */
  readonly topK: number;
  readonly seed: bigint;
  /** Compute the log-probability of each token (costs a pass over the vocabulary); otherwise it is reported as 0. */
  readonly logprobs?: boolean;
}

export type FinishReason = "stop" | "length" | "cancelled" | "draining";

export type GenerateEvent =
  /** The request was accepted; this comes first, and at once. */
  | { readonly type: "queued"; readonly queuedTokens: number }
  /** The request has a KV slot. */
  | { readonly type: "started"; readonly queuedTokens: number; readonly cachedPromptTokens: number }
  /** The tokens up to this position were replayed; every few of them. */
  | { readonly type: "progress"; readonly position: number }
  | { readonly type: "token"; readonly id: number; readonly position: number; readonly logprob: number }
  | { readonly type: "finish"; readonly reason: FinishReason; readonly outputTokens: number };
