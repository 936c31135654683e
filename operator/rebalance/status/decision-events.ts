// Whether a decision not to move is news, so that an event is due: when its reason is another than the last, and this one was
// not told a moment ago. What is decided in every window is in the status and the metrics. Pure.
import type { Decision } from "../../planner/decide.ts";

/** Reasons that come and go, such as Balanced and WithinNoise, are each told once in so long. */
const repeatMs = 10 * 60_000;

export class HoldNews {
  private last: Decision["reason"] | undefined;
  private readonly told = new Map<Decision["reason"], number>();

  held(reason: Decision["reason"], now: number): boolean {
    const same = reason === this.last;
    this.last = reason;
    const at = this.told.get(reason);
    if (same || (at !== undefined && now - at < repeatMs)) return false;
    this.told.set(reason, now);
    return true;
  }

  /** A plan is carried out, or could not be made: whatever holds the next one is news again. */
  acted(): void {
    this.last = undefined;
    this.told.clear();
  }
}
