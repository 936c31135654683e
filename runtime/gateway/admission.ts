// The limit on requests inside the gateway at once, those that wait for a worker included. Beyond that: 429. A count, not a queue:
// workers order what they accepted, failover.ts waits for one that accepts. Pure but for its own state.
import type { Metrics } from "../observe/metrics.ts";

/** The Retry-After of a 429, kept short: the queue drains by the second, and clients add their own jitter. */
export const retryAfterSeconds = 2;

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

  constructor(max: number, metrics: Metrics<"gateway">) {
    this.#max = max;
    this.#metrics = metrics;
    this.#show();
  }

  get inside(): number {
    return this.#inside;
  }

  /** Takes a request in; undefined when the gateway is full. */
  enter(): Admitted | undefined {
    if (this.#inside >= this.#max) return undefined;
    this.#inside++;
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
      started();
    };
    return { started, leave };
  }

  #show(): void {
    this.#metrics.set("enodia_gateway_requests_active", this.#inside - this.#waiting);
    this.#metrics.set("enodia_gateway_queue_requests", this.#waiting);
  }
}
