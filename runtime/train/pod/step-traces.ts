// The traces of a training pod's steps for watchers; without watchers they are dropped.
import { type Span, stepSpansMax, type TracedStep } from "../../../crds/training-trace.ts";

export class StepTraces {
  readonly #watchers = new Set<(line: string) => void>();
  #world: Pick<TracedStep, "epoch" | "group"> = { epoch: 0, group: 0 };

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

  /** Reports each step from now on as a line, until the returned function is called. */
  watch(watcher: (line: string) => void): () => void {
    this.#watchers.add(watcher);
    return () => void this.#watchers.delete(watcher);
  }
}

const rounded = (ms: number): number => Math.round(ms * 1000) / 1000;
const inMicroseconds = (span: Span): Span => Object.assign({}, span, { fromMs: rounded(span.fromMs), toMs: rounded(span.toMs) });
