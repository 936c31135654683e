// Checks that a process's load messages advance in sequence and time, so that replays and jumps do not count.
import { type LoadWindow, loadSampleMsMin, loadWindowMsMax, type Phase, phases } from "./telemetry.ts";

export type OrderFault = "duplicate" | "bad_seq" | "bad_window";

type Ordered = Pick<LoadWindow, "seq" | "phase" | "windowStart" | "windowEnd">;

/** Ticks may come a little early or late. */
const missingMax = 2 * phases.length;

/** State of one boot. */
export class MessageOrder {
  #last: { readonly seq: number; readonly windowEnd: number } | undefined;
  readonly #ends = new Map<Phase, number>();

  isOld(seq: number): boolean {
    return this.#last !== undefined && seq <= this.#last.seq;
  }

  /** Returns the fault and changes nothing, or records the message. Times are the sender's. */
  take({ seq, phase, windowStart, windowEnd }: Ordered): OrderFault | undefined {
    const last = this.#last;
    if (this.isOld(seq)) return "duplicate";
    if (windowEnd < windowStart || windowEnd - windowStart > loadWindowMsMax) return "bad_window";
    // Overlapping windows would count load twice.
    if (windowStart < (this.#ends.get(phase) ?? Number.NEGATIVE_INFINITY)) return "bad_window";
    if (last && windowEnd < last.windowEnd) return "bad_window";
    if (last && seq - last.seq > stepMax(windowEnd - last.windowEnd)) return "bad_seq";
    this.#last = { seq, windowEnd };
    this.#ends.set(phase, windowEnd);
    return undefined;
  }
}

/** Upper bound of messages numbered in `ms` of the process's time. */
function stepMax(ms: number): number {
  return missingMax + phases.length * Math.ceil(ms / loadSampleMsMin);
}
