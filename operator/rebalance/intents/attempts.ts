// The pace of what the loop tries: a step may be tried again at once, after a pause that grows with every failure, or not before
// members change. Pure: times and members come from the loop, which records how each step ended.
import { backoffMs } from "../backoff.ts";
import type { Why } from "../observed.ts";

/** A step that the loop starts: a look at the outside, or an intent. */
export interface Step {
  readonly kind: string;
  /** A look asks pods and the API server and may soon be repeated; a plan that fails costs epochs and events. */
  readonly cost: "look" | "plan";
}

/** The end that one step came to. */
export type StepEnd =
  /** It may be wanted again at once. */
  | { readonly end: "done" }
  /** There is nothing more to do with these members. `blocked` has the ranks that it could not empty, and why. */
  | { readonly end: "settled"; readonly blocked?: ReadonlyMap<number, string> }
  /** It is tried again after a pause that grows. */
  | { readonly end: "failed"; readonly why: Why }
  /** Its time has not come, and it is tried again soon. */
  | { readonly end: "wait"; readonly why: Why };

export const done: StepEnd = { end: "done" };
export const settled: StepEnd = { end: "settled" };

interface Entry {
  readonly members: string;
  readonly failures: number;
  /** The time before which it is not tried with the same members. */
  readonly nextAt: number;
  /** The time before which it is not tried with other members. */
  readonly othersAt: number;
  readonly why?: Why;
  readonly blocked?: ReadonlyMap<number, string>;
}

const pauseMs = 200;
/** The pause after the first failure, which is doubled with each further one. */
const firstPauseMs = 2_000;
const longestPauseMs: Readonly<Record<Step["cost"], number>> = {
  look: 10_000,
  /** An attempt costs two epochs and two events: a plan that fails for ever costs them no more than twice a minute. */
  plan: 30_000,
};

export class Attempts {
  readonly #entries = new Map<string, Entry>();

  /** Called at every look: reopens what was settled for members that have changed by now, even if they come back later. */
  look(members: string): void {
    for (const [kind, entry] of this.#entries)
      if (entry.nextAt === Number.POSITIVE_INFINITY && entry.members !== members) this.#entries.delete(kind);
  }

  mayTry(kind: string, members: string, now: number): boolean {
    const entry = this.#entries.get(kind);
    return !entry || now >= (entry.members === members ? entry.nextAt : entry.othersAt);
  }

  /** The kinds of step that are not to be tried now, with the reason; without one where nothing is left to do. */
  paused(members: string, now: number): ReadonlyMap<string, Why | undefined> {
    const held = [...this.#entries].filter(([kind]) => !this.mayTry(kind, members, now));
    return new Map(held.map(([kind, { why }]) => [kind, why]));
  }

  /** The ranks that could not be emptied with these members, and why. */
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
