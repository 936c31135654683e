// Virtual time: timers run in order, and all promises that a timer settles run before the next one. One hour of cluster
// life takes milliseconds, and the same seed takes the same path. Production code that reads the process's clock and sets
// its timers gets these while the clock runs.
import type { Clock } from "../../operator/rebalance/ports.ts";

interface Timer {
  readonly at: number;
  readonly order: number;
  run: (() => void) | undefined;
}

export class VirtualClock implements Clock {
  private time: number;
  private order = 0;
  private readonly heap: Timer[] = [];

  constructor(start = 1_700_000_000_000) {
    this.time = start;
  }

  now(): number {
    return this.time;
  }

  after(ms: number, run: () => void): () => void {
    const timer: Timer = { at: this.time + Math.max(0, ms), order: this.order++, run };
    this.push(timer);
    return () => {
      timer.run = undefined;
    };
  }

  every(ms: number, run: () => void): () => void {
    let stop = () => {};
    const again = (): void => {
      stop = this.after(ms, again);
      run();
    };
    stop = this.after(ms, again);
    return () => stop();
  }

  sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      this.after(ms, resolve);
    });
  }

  /** Runs timers until `done()` or until `ms` have passed; true when done. */
  async run(ms: number, done: () => boolean = () => false): Promise<boolean> {
    const giveBack = takeTimers(this);
    try {
      return await this.runUntil(this.time + ms, done);
    } finally {
      giveBack();
    }
  }

  private async runUntil(end: number, done: () => boolean): Promise<boolean> {
    await settle();
    while (!done()) {
      const next = this.heap[0];
      if (!next || next.at > end) {
        this.time = end;
        return done();
      }
      this.pop();
      this.time = Math.max(this.time, next.at);
      if (!next.run) continue;
      next.run();
      await settle();
    }
    return true;
  }

  private push(timer: Timer): void {
    const { heap } = this;
    heap.push(timer);
    for (let i = heap.length - 1; i > 0; ) {
      const parent = (i - 1) >> 1;
      if (!before(heap[i]!, heap[parent]!)) return;
      [heap[i], heap[parent]] = [heap[parent]!, heap[i]!];
      i = parent;
    }
  }

  private pop(): void {
    const { heap } = this;
    const last = heap.pop()!;
    if (heap.length === 0) return;
    heap[0] = last;
    for (let i = 0; ; ) {
      let child = 2 * i + 1;
      if (child >= heap.length) return;
      if (child + 1 < heap.length && before(heap[child + 1]!, heap[child]!)) child++;
      if (!before(heap[child]!, heap[i]!)) return;
      [heap[i], heap[child]] = [heap[child]!, heap[i]!];
      i = child;
    }
  }
}

function before(a: Timer, b: Timer): boolean {
  return a.at < b.at || (a.at === b.at && a.order < b.order);
}

/** A turn of the event loop: promises are settled before it, however long their chains. */
const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** What setTimeout and setInterval return in virtual time. */
class Handle {
  readonly stop: () => void;
  constructor(stop: () => void) {
    this.stop = stop;
  }
  ref(): this {
    return this;
  }
  unref(): this {
    return this;
  }
}

type Run = (...args: unknown[]) => void;

/** The process's timers and clocks become those of `clock`; returns the way to give them back. */
function takeTimers(clock: VirtualClock): () => void {
  const { setTimeout, clearTimeout, setInterval, clearInterval } = globalThis;
  const dateNow = Date.now;
  const performanceNow = performance.now;
  const clear =
    (real: (handle: never) => void) =>
    (handle: unknown): void => {
      if (handle instanceof Handle) handle.stop();
      else real(handle as never);
    };
  Object.assign(globalThis, {
    setTimeout: (run: Run, ms = 0, ...args: unknown[]) => new Handle(clock.after(ms, () => run(...args))),
    setInterval: (run: Run, ms = 0, ...args: unknown[]) => new Handle(clock.every(ms, () => run(...args))),
    clearTimeout: clear(clearTimeout),
    clearInterval: clear(clearInterval),
  });
  Date.now = () => clock.now();
  performance.now = () => clock.now();
  return () => {
    Object.assign(globalThis, { setTimeout, clearTimeout, setInterval, clearInterval });
    Date.now = dateNow;
    performance.now = performanceNow;
  };
}
