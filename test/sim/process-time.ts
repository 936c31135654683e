// The process's clocks, timers and dice, taken over by virtual time while it runs: what production code finds in globals and in
// node:timers/promises.
import { syncBuiltinESMExports } from "node:module";
import promised from "node:timers/promises";

/** The offer that virtual time must make. */
interface Time {
  now(): number;
  exact(): number;
  after(ms: number, run: () => void): () => void;
  every(ms: number, run: () => void): () => void;
  /** 0..1 */
  readonly random: () => number;
}

/** The handle that setTimeout and setInterval return in virtual time. */
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

let running: Time | undefined;

// Imports of node:timers/promises are bound once, so this stays in place and asks whose time it is.
const realSleep = promised.setTimeout;
promised.setTimeout = ((ms?: number, value?: unknown, options?: object) => {
  const time = running;
  return time ? new Promise<unknown>((resolve) => void time.after(ms ?? 1, () => resolve(value))) : realSleep(ms, value, options);
}) as typeof promised.setTimeout;
syncBuiltinESMExports();

const clear =
  (real: (handle: never) => void) =>
  (handle: unknown): void => {
    if (handle instanceof Handle) handle.stop();
    else real(handle as never);
  };

function abortAfter(time: Time, ms: number): AbortSignal {
  const controller = new AbortController();
  time.after(ms, () => controller.abort(new DOMException("the time is over", "TimeoutError")));
  return controller.signal;
}

/** Makes `time` the process's time from now on; returns the way to give it back. */
export function takeTime(time: Time): () => void {
  const { setTimeout, clearTimeout, setInterval, clearInterval } = globalThis;
  const before = { running, now: Date.now, performanceNow: performance.now, random: Math.random, timeout: AbortSignal.timeout };
  running = time;
  Object.assign(globalThis, {
    setTimeout: (run: Run, ms = 0, ...args: unknown[]) => new Handle(time.after(ms, () => run(...args))),
    setInterval: (run: Run, ms = 0, ...args: unknown[]) => new Handle(time.every(ms, () => run(...args))),
    clearTimeout: clear(clearTimeout),
    clearInterval: clear(clearInterval),
  });
  Date.now = () => time.now();
  performance.now = () => time.exact();
  Math.random = () => time.random();
  AbortSignal.timeout = (ms) => abortAfter(time, ms);
  return () => {
    running = before.running;
    Object.assign(globalThis, { setTimeout, clearTimeout, setInterval, clearInterval });
    Date.now = before.now;
    performance.now = before.performanceNow;
    Math.random = before.random;
    AbortSignal.timeout = before.timeout;
  };
}
