// When a step may be tried again: at once, after a pause that grows with every failure, or not before members change.
// Pure: times and members come from the loop.
import type { Intent } from "./intent.ts";

/** What the loop starts: a look at the outside, or an intent that makes a plan. */
export type Tried = "identity" | "recover" | Exclude<Intent["kind"], "wait">;

/** How a step ended. */
export type StepEnd =
  /** It may be wanted again at once. */
  | { readonly end: "done" }
  /** With these members there is nothing more to do. */
  | { readonly end: "settled" }
  /** Again after a pause. */
  | { readonly end: "failed"; readonly why: Why }
  /** Its time has not come: asked again soon. */
  | { readonly end: "wait"; readonly why: Why };

export interface Why {
  readonly reason: string;
  readonly message: string;
}

interface Entry {
  readonly members: string;
  readonly failures: number;
  /** With the same members not before. */
  readonly nextAt: number;
  /** With others not before. */
  readonly othersAt: number;
  readonly why: Why | undefined;
}

const pauseMs = 200;
/** After the first failure; doubled with each one. */
const firstPauseMs = 2_000;
/** Two epochs and two events an attempt: a plan that fails for ever costs no more than these twice a minute. */
const longestPauseMs = 30_000;
/** Looks at the API server and the workers. */
const longestLookMs = 10_000;
const looks: readonly Tried[] = ["identity", "recover"];

/** first, 2 first, 4 first ... longest */
export function backoffMs(failures: number, first: number, longest: number): number {
  return Math.min(longest, first * 2 ** Math.min(failures - 1, 30));
}

export class Attempts {
  private readonly entries = new Map<Tried, Entry>();

  /** Told at every look: what is settled for some members is open again once these have changed, even if they come back. */
  look(members: string): void {
    for (const [what, entry] of this.entries)
      if (entry.nextAt === Number.POSITIVE_INFINITY && entry.members !== members) this.entries.delete(what);
  }

  mayTry(what: Tried, members: string, now: number): boolean {
    const entry = this.entries.get(what);
    return !entry || now >= (entry.members === members ? entry.nextAt : entry.othersAt);
  }

  /** Why it is not tried now; undefined when it may be, or when nothing is left to do. */
  pauseOf(what: Tried, members: string, now: number): Why | undefined {
    return this.mayTry(what, members, now) ? undefined : this.entries.get(what)?.why;
  }

  record(what: Tried, members: string, result: StepEnd, now: number): void {
    const failures = this.entries.get(what)?.failures ?? 0;
    switch (result.end) {
      case "done":
        this.entries.delete(what);
        return;
      case "settled":
        this.entries.set(what, { members, failures: 0, nextAt: Number.POSITIVE_INFINITY, othersAt: 0, why: undefined });
        return;
      case "wait":
        this.entries.set(what, { members, failures, nextAt: now + pauseMs, othersAt: 0, why: result.why });
        return;
      case "failed": {
        const pause = backoffMs(failures + 1, firstPauseMs, looks.includes(what) ? longestLookMs : longestPauseMs);
        this.entries.set(what, { members, failures: failures + 1, nextAt: now + pause, othersAt: now + firstPauseMs, why: result.why });
      }
    }
  }
}
