// The order in which one process reports its load: sequence numbers and windows that go forward together. The operator and the
// recorder hold every signed message against it, so that one that was sent before, or that jumps ahead, counts nothing. Pure.
import { type LoadWindow, loadSampleMsMin, loadWindowMsMax, type Phase, phases } from "./telemetry.ts";

export type OrderFault = "duplicate" | "bad_seq" | "bad_window";

type Ordered = Pick<LoadWindow, "seq" | "phase" | "windowStart" | "windowEnd">;

/** Messages that may be missing between two, beside those that the time between them has room for: a tick comes a little early or late. */
const missingMax = 2 * phases.length;

/** What one boot has sent so far. */
export class MessageOrder {
  #last: { readonly seq: number; readonly windowEnd: number } | undefined;
  readonly #ends = new Map<Phase, number>();

  /** Takes note of a message that is in order; else says what is wrong with it, and changes nothing. Times are the sender's. */
  take({ seq, phase, windowStart, windowEnd }: Ordered): OrderFault | undefined {
    const last = this.#last;
    if (last && seq <= last.seq) return "duplicate";
    if (windowEnd < windowStart || windowEnd - windowStart > loadWindowMsMax) return "bad_window";
    // A window that reaches into the one before it would count load twice.
    if (windowStart < (this.#ends.get(phase) ?? Number.NEGATIVE_INFINITY)) return "bad_window";
    if (last && windowEnd < last.windowEnd) return "bad_window";
    if (last && seq - last.seq > stepMax(windowEnd - last.windowEnd)) return "bad_seq";
    this.#last = { seq, windowEnd };
    this.#ends.set(phase, windowEnd);
    return undefined;
  }
}

/** The most messages that a process can have numbered in so much of its own time. */
function stepMax(ms: number): number {
  return missingMax + phases.length * Math.ceil(ms / loadSampleMsMin);
}
