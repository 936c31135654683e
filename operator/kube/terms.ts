// Runs the terms of a leader, which may lose the lease and lead again in one process. Each term has its own fence, which never opens again.
// leader.ts holds the lease.
import { AppError } from "../../crds/common.ts";
import type { LeaderElection, LeaderOptions } from "./leader.ts";
import { type Clock, monotonicClock } from "./workqueue.ts";

/** Requests to a dead API server end within 30 s; what has not ended by then hangs, and only a new process helps. */
const endTimeoutMs = 120_000;

export interface TermsOptions {
  readonly elect: (on: Pick<LeaderOptions, "onElected" | "onLost">) => LeaderElection;
  /** Starts the leader's work and returns how to end it. `leading` is the fence; `over` is aborted when the term ends. */
  readonly begin: (leading: () => boolean, over: AbortSignal) => Promise<() => Promise<void>>;
  readonly onLost: (reason: string) => void;
  readonly clock?: Clock;
}

export class Terms {
  readonly #options: TermsOptions;
  readonly #clock: Clock;
  readonly #stop = new AbortController();

  constructor(options: TermsOptions) {
    this.#options = options;
    this.#clock = options.clock ?? monotonicClock;
  }

  /** Resolves after stop(); rejects where something could not begin or end. */
  async run(): Promise<void> {
    while (!this.#stop.signal.aborted) await this.#term();
  }

  /** Ends the term and releases the lease before run() resolves. */
  stop(): void {
    this.#stop.abort();
  }

  async #term(): Promise<void> {
    const { elect, begin, onLost } = this.#options;
    const elected = Promise.withResolvers<void>();
    const lost = new AbortController();
    const election = elect({
      onElected: elected.resolve,
      onLost: (reason) => {
        onLost(reason);
        lost.abort();
      },
    });
    const over = AbortSignal.any([this.#stop.signal, lost.signal]);
    const ended = aborted(over);
    election.start();
    await Promise.race([elected.promise, ended]);
    if (!over.aborted) {
      const end = await begin(() => election.isLeader, over);
      await ended;
      await this.#withinTime(end());
    }
    // A lost lease is not released; one that is still ours goes to another replica at once.
    if (!lost.signal.aborted) await election.stop();
  }

  #withinTime(end: Promise<void>): Promise<void> {
    return new Promise((resolve, reject) => {
      const late = () => reject(new AppError(`a term has not ended after ${endTimeoutMs / 1000} s`, { code: "TermHangs" }));
      const cancel = this.#clock.after(endTimeoutMs, late);
      end.then(resolve, reject).finally(cancel);
    });
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
}
