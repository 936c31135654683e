// Keys to reconcile: one entry and one worker per key, with delays and back-off. A key added while it is worked on runs once more.

export interface Clock {
  now(): number;
  /** Returns the cancellation. */
  after(ms: number, run: () => void): () => void;
  /** A deadline on the wall clock, which gRPC uses; set where this clock is another. */
  readonly deadlineIn?: (ms: number) => number;
}

/** Unix ms at which the monotonic clock was 0. */
const begunAt = Date.now() - performance.now();

/** Unix ms that advance steadily: setting the machine's clock changes no pending wait. */
export const systemClock: Clock = {
  now: () => Math.floor(begunAt + performance.now()),
  deadlineIn: (ms) => Date.now() + ms,
  after: (ms, run) => {
    const timer = setTimeout(run, ms);
    return () => clearTimeout(timer);
  },
};

/** Milliseconds since some moment, for ages only. */
export const monotonicClock: Clock = { ...systemClock, now: () => performance.now() };

/** `now` of a test, else monotonic milliseconds. */
export const ticksBeside = (now: (() => Date) | undefined): (() => number) => (now ? () => now().getTime() : monotonicClock.now);

export interface BackoffOptions {
  readonly baseMs: number;
  readonly maxMs: number;
}
const defaultBackoff: BackoffOptions = { baseMs: 100, maxMs: 60_000 };
const failuresMax = 30;

export class WorkQueue {
  readonly #clock: Clock;
  readonly #backoff: BackoffOptions;
  readonly #ready: string[] = [];
  readonly #queued = new Set<string>();
  readonly #active = new Set<string>();
  readonly #dirty = new Set<string>();
  readonly #failures = new Map<string, number>();
  readonly #delayed = new Map<string, { at: number; cancel: () => void }>();
  #waiting: ((key: string | undefined) => void)[] = [];
  #closed = false;

  constructor(clock: Clock = monotonicClock, backoff: BackoffOptions = defaultBackoff) {
    this.#clock = clock;
    this.#backoff = backoff;
  }

  add(key: string): void {
    if (this.#closed || this.#queued.has(key)) return;
    if (this.#active.has(key)) {
      this.#dirty.add(key);
      return;
    }
    const take = this.#waiting.shift();
    if (take) {
      this.#active.add(key);
      take(key);
      return;
    }
    this.#queued.add(key);
    this.#ready.push(key);
  }

  /** The earliest request per key wins. */
  addAfter(key: string, ms: number): void {
    if (this.#closed) return;
    if (ms <= 0) {
      this.add(key);
      return;
    }
    const at = this.#clock.now() + ms;
    const before = this.#delayed.get(key);
    if (before && before.at <= at) return;
    before?.cancel();
    const cancel = this.#clock.after(ms, () => {
      this.#delayed.delete(key);
      this.add(key);
    });
    this.#delayed.set(key, { at, cancel });
  }

  /** Pause of base * 2^n, at most max. */
  addBackedOff(key: string): number {
    const failures = Math.min(this.#failures.get(key) ?? 0, failuresMax);
    this.#failures.set(key, failures + 1);
    const ms = Math.min(this.#backoff.baseMs * 2 ** failures, this.#backoff.maxMs);
    this.addAfter(key, ms);
    return ms;
  }

  forget(key: string): void {
    this.#failures.delete(key);
  }

  /** Undefined once closed. The caller ends with done(). */
  next(): Promise<string | undefined> {
    if (this.#closed) return Promise.resolve(undefined);
    const key = this.#ready.shift();
    if (key === undefined) return new Promise((resolve) => this.#waiting.push(resolve));
    this.#queued.delete(key);
    this.#active.add(key);
    return Promise.resolve(key);
  }

  done(key: string): void {
    this.#active.delete(key);
    if (this.#dirty.delete(key)) this.add(key);
  }

  get depth(): number {
    return this.#ready.length;
  }

  close(): void {
    this.#closed = true;
    for (const { cancel } of this.#delayed.values()) cancel();
    this.#delayed.clear();
    this.#ready.length = 0;
    for (const resolve of this.#waiting) resolve(undefined);
    this.#waiting = [];
  }
}
