// Two small waiting tools of the shells here: a counting gate and a "something changed" signal. Bounded by their callers.
import { AppError } from "../../crds/common.ts";

/** At most `slots` holders at once; the rest wait in order, urgent ones first. */
export class Gate {
  #free: number;
  readonly #waiting: { urgent: boolean; go: () => void }[] = [];

  constructor(slots: number) {
    this.#free = slots;
  }
  async run<T>(urgent: boolean, work: () => Promise<T>): Promise<T> {
    if (this.#free > 0) this.#free -= 1;
    else await this.#turn(urgent);
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#free += 1;
      else next.go();
    }
  }
  #turn(urgent: boolean): Promise<void> {
    return new Promise((resolve) => {
      const entry = { urgent, go: resolve };
      const before = urgent ? this.#waiting.findIndex((other) => !other.urgent) : -1;
      if (before === -1) this.#waiting.push(entry);
      else this.#waiting.splice(before, 0, entry);
    });
  }
}

/** Wakes everybody who waits, each time. */
export class Signal {
  #waiters = new Set<() => void>();

  notify(): void {
    const waiters = this.#waiters;
    this.#waiters = new Set();
    for (const wake of waiters) wake();
  }
  /** Resolves at the next notify or after maxMs, whichever is first; rejects when `abort` fires. */
  wait(maxMs: number, abort?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const finish = (end: () => void) => {
        clearTimeout(timer);
        this.#waiters.delete(wake);
        abort?.removeEventListener("abort", onAbort);
        end();
      };
      const wake = () => finish(resolve);
      const onAbort = () => finish(() => reject(abortReason(abort)));
      const timer = setTimeout(wake, maxMs);
      this.#waiters.add(wake);
      if (abort?.aborted) onAbort();
      else abort?.addEventListener("abort", onAbort, { once: true });
    });
  }
}

/** What an aborted wait rejects with: the AppError given to `abort()`, or a plain one. */
export function abortReason(signal: AbortSignal | undefined): AppError {
  return signal?.reason instanceof AppError ? signal.reason : new AppError("cancelled", { code: "Cancelled", cause: signal?.reason });
}
