// A queue with one writer and one reader that waits: events of a request on their way to whoever iterates them.
// Bounded by nature: a request has at most its context's length of events.

export class Stream<T> implements AsyncIterable<T> {
  readonly #items: T[] = [];
  #failed: { readonly error: unknown } | undefined;
  #wake: (() => void) | undefined;

  push(item: T): void {
    this.#items.push(item);
    this.#wake?.();
  }

  /** Ends the stream with an error; what was pushed before is still read. */
  fail(error: unknown): void {
    this.#failed ??= { error };
    this.#wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T> {
    for (;;) {
      for (let item = this.#items.shift(); item !== undefined; item = this.#items.shift()) yield item;
      if (this.#failed) throw this.#failed.error;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = undefined;
    }
  }
}
