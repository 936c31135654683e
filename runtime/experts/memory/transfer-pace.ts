// The rate of limited transfers at this rank in both directions; the share follows token latency (placement/backoff.ts, ../DECISIONS.md
// 5).

import { readLimits } from "../../net/failure-detector.ts";
import { Signal } from "../../net/signal.ts";
import { type BackoffDecision, leastLooksMax, leastShare, nextShare, summarize } from "../../placement/backoff.ts";

const decideEveryMs = 1_000;
const quietGaps = 1024;
const movingGapsMax = 4096;
/** Milliseconds between two transfers of one move. */
const lingerMs = 3_000;
/** Waits poll this often, since the rate may change. */
const sliceMs = 100;

export interface PaceClock {
  /** Monotonic milliseconds. */
  now(): number;
  wait(ms: number, signal?: AbortSignal): Promise<void>;
  every(ms: number, run: () => void): () => void;
}

export interface TransferPaceOptions {
  readonly onChange: (decision: BackoffDecision, before: number) => void;
  readonly clock?: PaceClock;
}

interface Transfer {
  readonly bytes: number;
  /** Bytes per second; 0 = unlimited. */
  readonly limit: number;
  readonly signal: AbortSignal;
}

/** The time of a chunk; nobody keeps a place for ever by a pace of a byte a second. */
export const pacedMs = (bytes: number, bytesPerSecond: number): number => Math.min((bytes / bytesPerSecond) * 1000, readLimits.chunkMs);

export class TransferPace {
  readonly #clock: PaceClock;
  readonly #onChange: TransferPaceOptions["onChange"];
  #quiet: number[] = [];
  #quietNext = 0;
  #moving: number[] = [];
  #atLeast: number[] = [];
  #atLeastLooks = 0;
  readonly #limits = new Map<symbol, number>();
  #stopLooking: (() => void) | undefined;
  #endedAt = 0;
  #share = 1;
  /** Bytes received ahead of the rate, and when. */
  #ahead = 0;
  #aheadAt = 0;

  constructor(options: TransferPaceOptions) {
    this.#clock = options.clock ?? realClock;
    this.#onChange = options.onChange;
  }

  /** 0 without a move. */
  get effectiveRate(): number {
    return this.rate(Math.max(0, ...this.#limits.values()));
  }

  /** 0 = unlimited. */
  rate(limit: number): number {
    return limit * this.#share;
  }

  token(gapMs: number): void {
    if (this.#stopLooking === undefined) {
      this.#quiet[this.#quietNext] = gapMs;
      this.#quietNext = (this.#quietNext + 1) % quietGaps;
    } else if (this.#moving.length < movingGapsMax) this.#moving.push(gapMs);
  }

  /** Unlimited transfers do not wait. */
  async receive<T>(transfer: Transfer, work: () => Promise<T>): Promise<T> {
    if (transfer.limit <= 0) return await work();
    const end = this.begin(transfer.limit);
    try {
      await this.#wait(transfer);
      return await work();
    } finally {
      end();
    }
  }

  begin(limit: number): () => void {
    const key = Symbol();
    this.#limits.set(key, limit);
    this.#stopLooking ??= this.#clock.every(decideEveryMs, () => this.#look());
    return () => {
      this.#limits.delete(key);
      this.#endedAt = this.#clock.now();
    };
  }

  async #wait({ bytes, limit, signal }: Transfer): Promise<void> {
    for (;;) {
      const rate = this.rate(limit) / 1000;
      const now = this.#clock.now();
      this.#ahead = Math.max(0, this.#ahead - rate * (now - this.#aheadAt));
      this.#aheadAt = now;
      if (this.#ahead < 1) break;
      await this.#clock.wait(Math.min(sliceMs, Math.ceil(this.#ahead / rate)), signal);
    }
    this.#ahead += bytes;
  }

  #look(): void {
    if (this.#limits.size > 0 || this.#clock.now() - this.#endedAt < lingerMs) {
      this.#decide();
      return;
    }
    this.#stopLooking?.();
    this.#stopLooking = undefined;
    this.#moving = [];
  }

  #decide(): void {
    const before = this.#share;
    const decision = nextShare(before, summarize(this.#quiet), summarize(this.#moving));
    this.#share = decision.share;
    if (decision.reason === "TooFewTokens") return;
    if (decision.reason === "LatencyRisen" && before === leastShare) this.#stillRisen();
    else [this.#atLeast, this.#atLeastLooks] = [[], 0];
    this.#moving = [];
    if (decision.share !== before) this.#onChange(decision, before);
  }

  /** Latency without transfers has other causes: it becomes the new baseline. */
  #stillRisen(): void {
    this.#atLeast.push(...this.#moving);
    if (++this.#atLeastLooks < leastLooksMax) return;
    this.#quiet = this.#atLeast.slice(-quietGaps);
    this.#quietNext = this.#quiet.length % quietGaps;
    [this.#atLeast, this.#atLeastLooks] = [[], 0];
  }
}

const realClock: PaceClock = {
  now: () => performance.now(),
  wait: (ms, signal) => new Signal().wait(ms, signal),
  every: (ms, run) => {
    const timer = setInterval(run, ms).unref();
    return () => clearInterval(timer);
  },
};
