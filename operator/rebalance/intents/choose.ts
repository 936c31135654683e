// The choice of the intent that acts now: the first in order that is wanted and may be tried. Pure; the loop calls it at every tick.
import type { Observed, Why } from "../observed.ts";
import type { Intent } from "./intent.ts";

/** Nothing is planned for a deployment that wants no ranks. */
export function suspended({ spec, world }: Observed): boolean {
  return spec.suspend || world.desiredRanks === 0;
}

export interface Choice {
  /** The intent that acts; undefined when none does. */
  readonly intent?: Intent;
  /** The reason for waiting where none acts. */
  readonly wait?: Why;
}

/** `windowClosed`: those that act on a window of load have a new one. */
export function chooseIntent(seen: Observed, intents: readonly Intent[], windowClosed: boolean): Choice {
  let wait: Why | undefined;
  for (const intent of intents) {
    const wanted = intent.wanted(seen);
    if (typeof wanted === "object") return { wait: wanted };
    if (!wanted) continue;
    if (intent.holdsUpOthers || !seen.paused.has(intent.kind)) {
      if (windowClosed || !intent.onWindow) return { intent };
      // It waits for nothing but load: those after it may act, and a pause of those before it is over for whoever reads the status.
      wait = undefined;
      continue;
    }
    // It pauses after a failure, or has nothing left to do for these members: those after it are not held up.
    wait = seen.paused.get(intent.kind);
  }
  return wait ? { wait } : {};
}
