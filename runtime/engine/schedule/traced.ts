// The choice of steps that are traced: the first few of each traced request, so that a trace shows the way through the ranks and a
// long answer does not fill it. A step computes for several requests; its frames belong to the trace of the first traced one. Pure.

/** Prefill chunks and decode steps together: with layers x ranks spans each. */
export const tracedStepsMax = 2;

export class TracedRequests {
  readonly #left = new Map<string, { readonly traceparent: string; steps: number }>();

  add(id: string, traceparent: string): void {
    this.#left.set(id, { traceparent, steps: tracedStepsMax });
  }

  /** The parent for the frames of a step that computes for these requests. */
  take(ids: readonly string[]): string | undefined {
    if (this.#left.size === 0) return undefined;
    for (const id of ids) {
      const entry = this.#left.get(id);
      if (entry === undefined) continue;
      entry.steps--;
      if (entry.steps === 0) this.#left.delete(id);
      return entry.traceparent;
    }
    return undefined;
  }

  /** The request has ended. */
  drop(id: string): void {
    this.#left.delete(id);
  }
}
