// The point between two steps, at which state may change and the loop waits for work.

export class StepBoundary {
  #changes: (() => void)[] = [];
  #wake: (() => void) | undefined;

  /** Applies the change before the next step. */
  later(change: () => void): void {
    this.#changes.push(change);
    this.wake();
  }

  /** Resolves once the change is applied. */
  atStepEnd(change: () => void): Promise<void> {
    return new Promise((resolve) =>
      this.later(() => {
        change();
        resolve();
      }),
    );
  }

  pass(): void {
    for (const change of this.#changes.splice(0)) change();
  }

  wake(): void {
    this.#wake?.();
  }

  /** Resolves at the next `wake`; `before` runs when it can no longer be missed. */
  async sleep(before: () => void): Promise<void> {
    const woken = new Promise<void>((resolve) => {
      this.#wake = resolve;
    });
    before();
    await woken;
    this.#wake = undefined;
  }
}
