// Limits on what is inside the gateway; beyond them clients get 429 or 503 (DECISIONS.md 5).
import type { Metrics } from "../../observe/runtime-metrics.ts";
import { type Problem, problems } from "../problem.ts";
import { ByteShares } from "./byte-shares.ts";

/** Short, since the queue drains by the second and clients add jitter. */
export const retryAfterSeconds = 2;

/** These stay in memory until sent, top ones included. */
export const promptLogprobsMax = 1_048_576;
/** About 100 bytes each. */
const promptLogprobsAtOnceMax = 2 * promptLogprobsMax;

/** Bytes of the requests that no worker computes yet; their bodies are not counted any more. */
export const waitingBytesMax = 64 * 1024 * 1024;
/** Requests that are held while scaled to zero. */
export const heldMax = 256;
/** Ranks take some time to start. */
const heldRetryAfterSeconds = 10;

export interface Entering {
  readonly promptLogprobs: number;
  readonly bytes: number;
  /** Whose share they take. */
  readonly holder: string;
  /** The deployment is scaled to zero. */
  readonly holds: boolean;
}

export interface Admitted {
  /** A worker computes it, so it no longer waits. */
  started(): void;
  /** Idempotent. */
  leave(): void;
}

export class Admission {
  readonly #max: number;
  readonly #metrics: Metrics<"gateway">;
  readonly #now: () => number;
  readonly #listeners = new Set<() => void>();
  #inside = 0;
  #waiting = 0;
  readonly #waitingBytes = new ByteShares(waitingBytesMax);
  #promptLogprobs = 0;
  #emptySince: number;
  /** It had no request. */
  unasked = true;

  /** `now`: monotonic milliseconds. */
  constructor(max: number, metrics: Metrics<"gateway">, now: () => number = () => performance.now()) {
    this.#max = max;
    this.#metrics = metrics;
    this.#now = now;
    this.#emptySince = now();
    this.#show();
  }

  /** Milliseconds since the last request left, or the start. */
  get idleMs(): number {
    return this.#inside > 0 ? 0 : this.#now() - this.#emptySince;
  }

  /** Returns the removal of the listener. */
  onEnter(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  get inside(): number {
    return this.#inside;
  }

  /** Requests that no worker computes yet. */
  get waiting(): number {
    return this.#waiting;
  }

  load(): { readonly waiting: number; readonly running: number } {
    return { waiting: this.#waiting, running: this.#inside - this.#waiting };
  }

  enter({ promptLogprobs, bytes, holder, holds }: Entering): Admitted | { readonly problem: Problem } {
    const isFull = !this.#waitingBytes.fits(holder, bytes);
    if (holds && (this.#waiting >= heldMax || isFull)) return { problem: problems.heldFull(heldRetryAfterSeconds) };
    if (this.#inside >= this.#max || isFull) return { problem: problems.queueFull(retryAfterSeconds) };
    if (promptLogprobs > 0 && this.#promptLogprobs + promptLogprobs > promptLogprobsAtOnceMax)
      return { problem: problems.promptLogprobsFull(retryAfterSeconds) };
    this.#inside++;
    this.unasked = false;
    this.#promptLogprobs += promptLogprobs;
    this.#waiting++;
    this.#waitingBytes.add(holder, bytes);
    this.#show();
    for (const listener of this.#listeners) listener();
    let waits = true;
    let left = false;
    const started = () => {
      if (waits) {
        this.#waiting--;
        this.#waitingBytes.add(holder, -bytes);
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
