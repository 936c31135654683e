// Chooses the intent that acts at this tick: the first in order that is wanted and may be tried.
import type { Observed, Why } from "../observed.ts";
import type { Intent } from "./intent.ts";

export function suspended({ spec, world }: Observed): boolean {
  return spec.suspend || world.desiredRanks === 0;
}

export interface Choice {
  readonly intent?: Intent;
  /** Why nothing acts, if there is a reason. */
  readonly wait?: Why;
}

export function chooseIntent(seen: Observed, intents: readonly Intent[], windowClosed: boolean): Choice {
  let wait: Why | undefined;
  for (const intent of intents) {
    const wanted = intent.wanted(seen);
    if (typeof wanted === "object") return { wait: wanted };
    if (!wanted) continue;
    if (intent.holdsUpOthers || !seen.paused.has(intent.kind)) {
      if (windowClosed || !intent.onWindow) return { intent };
      // It only waits for load, so later intents may act.
      wait = undefined;
      continue;
    }
    // It pauses after a failure or is settled, and does not block later intents.
    wait = seen.paused.get(intent.kind);
  }
  return wait ? { wait } : {};
}
