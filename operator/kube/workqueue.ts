// Keys waiting to be reconciled: one entry per key, one worker per key at a time, delayed and backed-off re-adds.
// Pure but for the clock it is given. A key added while it is being worked on runs once more afterwards.

export interface Clock {
  now(): number;
  /** Returns the cancellation. */
  after(ms: number, run: () => void): () => void;
  /** The point in time after so many ms, for gRPC, which reckons with the wall clock. Of a clock that is not that one. */
  readonly deadlineIn?: (ms: number) => number;
}

/** Of a clock that begins with the process: unix ms where it is 0. */
const begunAt = Date.now() - performance.now();

/** Milliseconds since 1970, for what is also written down as a time. Steady: what waits for a time waits no longer, and no shorter, when
 *  somebody sets the machine's clock. */
export const systemClock: Clock = {
  now: () => Math.floor(begunAt + performance.now()),
  deadlineIn: (ms) => Date.now() + ms,
  after: (ms, run) => {
    const timer = setTimeout(run, ms);
    return () => clearTimeout(timer);
  },
};

/** Milliseconds since some moment, for ages alone: nobody can set this clock. */
export const monotonicClock: Clock = { ...systemClock, now: () => performance.now() };

/** Milliseconds for what waits in a process that also tells the time by `now`: by that clock in a test, else by one that nobody sets. */
export const ticksBeside = (now: (() => Date) | undefined): (() => number) => (now ? () => now().getTime() : monotonicClock.now);

export interface BackoffOptions {
  readonly baseMs: number;
  readonly maxMs: number;
}
const defaultBackoff: BackoffOptions = { baseMs: 100, maxMs: 60_000 };
/** Exponent at which the back-off stops growing in any case. */
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

  /** The earliest wish per key wins. */
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

  /** Adds a key again after a failure, with a pause of base * 2^n, at most max. */
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

  /** Next key, or undefined once closed. The caller ends with done(). */
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
