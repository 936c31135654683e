// The traces of a training pod's steps, for those who ask for them while it trains: each step's spans are told once it has ended, between
// two steps, and to nobody they are dropped. Pure.
import { type Span, stepSpansMax, type TracedStep } from "../../../crds/training-trace.ts";

export class StepTraces {
  readonly #watchers = new Set<(line: string) => void>();
  #world: Pick<TracedStep, "epoch" | "group"> = { epoch: 0, group: 0 };

  /** The membership that trains from here on, and which of the worlds that meet is this rank's. */
  begins(epoch: number, group: number): void {
    this.#world = { epoch, group };
  }

  ended(step: number, spans: readonly Span[]): void {
    if (this.#watchers.size === 0) return;
    const cut = spans.length >= stepSpansMax && { cut: true as const };
    const traced: TracedStep = { ...this.#world, step, spans: spans.map(inMicroseconds), ...cut };
    const line = `${JSON.stringify(traced)}\n`;
    for (const watcher of [...this.#watchers]) watcher(line);
  }

  /** Each step from now on as a line, the one that is under way from its begin, until what it returns is called. */
  watch(watcher: (line: string) => void): () => void {
    this.#watchers.add(watcher);
    return () => void this.#watchers.delete(watcher);
  }
}

const rounded = (ms: number): number => Math.round(ms * 1000) / 1000;
/** Digits beyond are no time, and half of a line. */
const inMicroseconds = (span: Span): Span => Object.assign({}, span, { fromMs: rounded(span.fromMs), toMs: rounded(span.toMs) });
