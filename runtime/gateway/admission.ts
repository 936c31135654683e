// The limits on what is inside the gateway at once: requests, those that wait for a worker included, and log-probabilities of their
// prompts. Beyond them: 429. Counts, not a queue: workers order what they accepted, failover.ts waits for one that accepts. Pure but for
// its own state.
import type { Metrics } from "../observe/metrics.ts";
import { type Problem, problems } from "./problem.ts";

/** The Retry-After of a 429, kept short: the queue drains by the second, and clients add their own jitter. */
export const retryAfterSeconds = 2;

/** Log-probabilities of prompt tokens that one request is told, the likeliest included: they are in memory until they are sent. */
export const promptLogprobsMax = 1_048_576;
/** The same of all requests together, about 100 bytes each: the largest request may come beside as many others. */
const promptLogprobsAtOnceMax = 2 * promptLogprobsMax;

export interface Admitted {
  /** Tells that a worker computes it, so that it counts no longer among those that wait. */
  started(): void;
  /** Gives its place back; idempotent. */
  leave(): void;
}

export class Admission {
  readonly #max: number;
  readonly #metrics: Metrics<"gateway">;
  #inside = 0;
  #waiting = 0;
  #promptLogprobs = 0;

  constructor(max: number, metrics: Metrics<"gateway">) {
    this.#max = max;
    this.#metrics = metrics;
    this.#show();
  }

  get inside(): number {
    return this.#inside;
  }

  /** Of these those that no worker computes yet. */
  get waiting(): number {
    return this.#waiting;
  }

  /** Takes a request in that is told so many log-probabilities of its prompts, or says why not. */
  enter(promptLogprobs: number): Admitted | { readonly problem: Problem } {
    if (this.#inside >= this.#max) return { problem: problems.queueFull(retryAfterSeconds) };
    if (promptLogprobs > 0 && this.#promptLogprobs + promptLogprobs > promptLogprobsAtOnceMax)
      return { problem: problems.promptLogprobsFull(retryAfterSeconds) };
    this.#inside++;
    this.#promptLogprobs += promptLogprobs;
    this.#waiting++;
    this.#show();
    let waits = true;
    let left = false;
    const started = () => {
      if (waits) this.#waiting--;
      waits = false;
      this.#show();
    };
    const leave = () => {
      if (left) return;
      left = true;
      this.#inside--;
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
