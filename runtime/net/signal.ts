// A change signal with timeouts, and the error of an aborted wait.
import { AppError } from "../../crds/common.ts";

/** Wakes all waiters. */
export class Signal {
  #waiters = new Set<() => void>();

  notify(): void {
    const waiters = this.#waiters;
    this.#waiters = new Set();
    for (const wake of waiters) wake();
  }
  /** Resolves after maxMs at the latest; rejects when `abort` fires. */
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

export function abortReason(signal: AbortSignal | undefined): AppError {
  return signal?.reason instanceof AppError ? signal.reason : new AppError("cancelled", { code: "Cancelled", cause: signal?.reason });
}
