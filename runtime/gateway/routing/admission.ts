// The limits on what is inside the gateway at once; beyond them clients get 429 or 503 (DECISIONS.md 5). Pure but for its own state.
import type { Metrics } from "../../observe/metrics.ts";
import { type Problem, problems } from "../problem.ts";

/** The Retry-After of a 429, kept short: the queue drains by the second, and clients add their own jitter. */
export const retryAfterSeconds = 2;

/** Log-probabilities of prompt tokens that one request is told, the likeliest included: they are in memory until they are sent. */
export const promptLogprobsMax = 1_048_576;
/** The same of all requests together, about 100 bytes each: the largest request may come beside as many others. */
const promptLogprobsAtOnceMax = 2 * promptLogprobsMax;

/** What is held of a deployment that was scaled to zero, at most: nobody computes any of it until a rank has come. */
export const heldMax = { requests: 256, bytes: 64 * 1024 * 1024 } as const;
/** The Retry-After of a request beyond that: ranks take some time to come. */
const heldRetryAfterSeconds = 10;

/** What a request takes of the gateway while it waits. */
export interface Entering {
  /** Log-probabilities of its prompts that it is told. */
  readonly promptLogprobs: number;
  /** Bytes of its body. */
  readonly bytes: number;
  /** True while no rank is there on purpose, so that it is held. */
  readonly holds: boolean;
}

export interface Admitted {
  /** Tells that a worker computes it, so that it counts no longer among those that wait. */
  started(): void;
  /** Gives its place back; idempotent. */
  leave(): void;
}

export class Admission {
  readonly #max: number;
  readonly #metrics: Metrics<"gateway">;
  readonly #now: () => number;
  readonly #listeners = new Set<() => void>();
  #inside = 0;
  #waiting = 0;
  #waitingBytes = 0;
  #promptLogprobs = 0;
  /** The time since when none is inside. */
  #emptySince: number;

  /** `now`: milliseconds of a clock that nobody sets. */
  constructor(max: number, metrics: Metrics<"gateway">, now: () => number = () => performance.now()) {
    this.#max = max;
    this.#metrics = metrics;
    this.#now = now;
    this.#emptySince = now();
    this.#show();
  }

  /** Milliseconds since the last request left, or since the begin; 0 while one is inside. */
  get idleMs(): number {
    return this.#inside > 0 ? 0 : this.#now() - this.#emptySince;
  }

  /** Calls it when a request comes in. Returns how to stop. */
  onEnter(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  get inside(): number {
    return this.#inside;
  }

  /** Of these those that no worker computes yet. */
  get waiting(): number {
    return this.#waiting;
  }

  /** Requests that wait for a worker, and those that one computes. */
  load(): { readonly waiting: number; readonly running: number } {
    return { waiting: this.#waiting, running: this.#inside - this.#waiting };
  }

  /** Takes a request in, or says why not. */
  enter({ promptLogprobs, bytes, holds }: Entering): Admitted | { readonly problem: Problem } {
    if (holds && (this.#waiting >= heldMax.requests || this.#waitingBytes + bytes > heldMax.bytes))
      return { problem: problems.heldFull(heldRetryAfterSeconds) };
    if (this.#inside >= this.#max) return { problem: problems.queueFull(retryAfterSeconds) };
    if (promptLogprobs > 0 && this.#promptLogprobs + promptLogprobs > promptLogprobsAtOnceMax)
      return { problem: problems.promptLogprobsFull(retryAfterSeconds) };
    this.#inside++;
    this.#promptLogprobs += promptLogprobs;
    this.#waiting++;
    this.#waitingBytes += bytes;
    this.#show();
    for (const listener of this.#listeners) listener();
    let waits = true;
    let left = false;
    const started = () => {
      if (waits) {
        this.#waiting--;
        this.#waitingBytes -= bytes;
      }
      waits = false;
      this.#show();
    };
    const leave = () => {
      if (left) return;
      left = true;
      this.#inside--;
      if (this.#inside === 0) this.#emptySince = this.#now();
      this.#promptLogprobs -= promptLogprobs;
      started();
    };
    return { started, leave };
  }

  #show(): void {
    this.#metrics.set("enodia_gateway_requests_active", this.#inside - this.#waiting);
    this.#metrics.set("enodia_gateway_queue_requests", this.#waiting);
  }
}
