// The moment between two steps, when state may change: requests and calls leave their changes here, and the loop waits here for work.

export class StepBoundary {
  #changes: (() => void)[] = [];
  #wake: (() => void) | undefined;

  /** The change is made before the next step. */
  later(change: () => void): void {
    this.#changes.push(change);
    this.wake();
  }

  /** Resolves once the change is made. */
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

  /** Resolves at the next `wake`; `before` runs when one would already be noticed. */
  async sleep(before: () => void): Promise<void> {
    const woken = new Promise<void>((resolve) => {
      this.#wake = resolve;
    });
    before();
    await woken;
    this.#wake = undefined;
  }
}
