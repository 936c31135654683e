// The pace of steps that the loop tries: again at once, after a growing pause, or only after members change. Times and members come
// from the loop.
import { backoffMs } from "../backoff.ts";
import type { Why } from "../observed.ts";

/** A step that the loop starts: a look at the outside, or an intent. */
export interface Step {
  readonly kind: string;
  /** A look is cheap and soon repeated; a failed plan costs epochs and events. */
  readonly cost: "look" | "plan";
}

export type StepEnd =
  | { readonly end: "done" }
  /** Nothing is left to do with these members. `blocked` has the ranks that it could not empty, and why. */
  | { readonly end: "settled"; readonly blocked?: ReadonlyMap<number, string> }
  | { readonly end: "failed"; readonly why: Why }
  | { readonly end: "wait"; readonly why: Why };

export const done: StepEnd = { end: "done" };
export const settled: StepEnd = { end: "settled" };

interface Entry {
  readonly members: string;
  readonly failures: number;
  readonly nextAt: number;
  readonly othersAt: number;
  readonly why?: Why;
  readonly blocked?: ReadonlyMap<number, string>;
}

const pauseMs = 200;
const firstPauseMs = 2_000;
const longestPauseMs: Readonly<Record<Step["cost"], number>> = {
  look: 10_000,
  /** An attempt costs two epochs and two events, so it happens at most twice a minute. */
  plan: 30_000,
};

export class Attempts {
  readonly #entries = new Map<string, Entry>();

  /** Call it at every tick: settled steps reopen when members change. */
  look(members: string): void {
    for (const [kind, entry] of this.#entries)
      if (entry.nextAt === Number.POSITIVE_INFINITY && entry.members !== members) this.#entries.delete(kind);
  }

  mayTry(kind: string, members: string, now: number): boolean {
    const entry = this.#entries.get(kind);
    return !entry || now >= (entry.members === members ? entry.nextAt : entry.othersAt);
  }

  /** The kinds of step that must wait, with the reason, or undefined where nothing is left to do. */
  paused(members: string, now: number): ReadonlyMap<string, Why | undefined> {
    const held = [...this.#entries].filter(([kind]) => !this.mayTry(kind, members, now));
    return new Map(held.map(([kind, { why }]) => [kind, why]));
  }

  blocked(members: string): ReadonlyMap<number, string> {
    const entries = [...this.#entries.values()].filter((entry) => entry.members === members);
    return new Map(entries.flatMap(({ blocked }) => [...(blocked ?? [])]));
  }

  record({ kind, cost }: Step, members: string, result: StepEnd, now: number): void {
    const failures = this.#entries.get(kind)?.failures ?? 0;
    switch (result.end) {
      case "done":
        this.#entries.delete(kind);
        return;
      case "settled": {
        const { blocked } = result;
        this.#entries.set(kind, { members, failures: 0, nextAt: Number.POSITIVE_INFINITY, othersAt: 0, ...(blocked ? { blocked } : {}) });
        return;
      }
      case "wait":
        this.#entries.set(kind, { members, failures, nextAt: now + pauseMs, othersAt: 0, why: result.why });
        return;
      case "failed": {
        const pause = backoffMs(failures + 1, firstPauseMs, longestPauseMs[cost]);
        this.#entries.set(kind, { members, failures: failures + 1, nextAt: now + pause, othersAt: now + firstPauseMs, why: result.why });
      }
    }
  }
}
