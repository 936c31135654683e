// Virtual time: timers run in order, and all promises that a timer settles run before the next one. One hour of cluster
// life takes milliseconds, and the same seed takes the same path. Production code that reads the process's clock and sets
// its timers gets these while the clock runs (process-time.ts). Timers belong to the simulated process that set them, and end with it.
import { AsyncLocalStorage } from "node:async_hooks";
import { seeded } from "../../operator/planner/random.ts";
import type { Clock } from "../../operator/rebalance/ports.ts";
import { takeTime } from "./process-time.ts";

/** A simulated process, as far as time goes: once dead, nothing that it was waiting for happens to it. */
export interface Owner {
  dead: boolean;
}

const owners = new AsyncLocalStorage<Owner | undefined>();

/** Runs `work`, and all that comes of it, as a part of that process; undefined: of the world around them. */
export function asOwner<T>(owner: Owner | undefined, work: () => T): T {
  return owners.run(owner, work);
}

interface Timer {
  readonly at: number;
  readonly order: number;
  readonly owner: Owner | undefined;
  run: (() => void) | undefined;
}

export class VirtualClock implements Clock {
  readonly random: () => number;
  #time: number;
  #order = 0;
  readonly #heap: Timer[] = [];

  /** `random`: what Math.random answers while this clock runs. */
  constructor(start = 1_700_000_000_000, random: () => number = seeded(start).next) {
    this.#time = start;
    this.random = random;
  }

  /** Whole milliseconds, as Date.now gives them. */
  now(): number {
    return Math.floor(this.#time);
  }
  /** The time that performance.now gives. */
  exact(): number {
    return this.#time;
  }

  after(ms: number, run: () => void): () => void {
    const timer: Timer = { at: this.#time + Math.max(0, ms), order: this.#order++, owner: owners.getStore(), run };
    this.#push(timer);
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
    const giveBack = takeTime(this);
    try {
      return await this.#runUntil(this.#time + ms, done);
    } finally {
      giveBack();
    }
  }

  async #runUntil(end: number, done: () => boolean): Promise<boolean> {
    await settle();
    while (!done()) {
      const next = this.#heap[0];
      if (!next || next.at > end) {
        this.#time = end;
        return done();
      }
      this.#pop();
      this.#time = Math.max(this.#time, next.at);
      const { run, owner } = next;
      if (!run || owner?.dead) continue;
      if (owners.getStore() === owner) run();
      else owners.run(owner, run);
      await settle();
    }
    return true;
  }

  #push(timer: Timer): void {
    const heap = this.#heap;
    heap.push(timer);
    for (let i = heap.length - 1; i > 0; ) {
      const parent = (i - 1) >> 1;
      if (!before(heap[i]!, heap[parent]!)) return;
      [heap[i], heap[parent]] = [heap[parent]!, heap[i]!];
      i = parent;
    }
  }

  #pop(): void {
    const heap = this.#heap;
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
