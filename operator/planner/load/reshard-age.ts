// The age of the last resharding, which callers of a policy store since policies have no memory.
import type { PlanInput, PlanOutput } from "../policy.ts";

export class ReshardAge {
  #last: number | undefined;

  forget(): void {
    this.#last = undefined;
  }

  /** A resharding that the budget cut short goes on in the next plan. */
  planned(window: number, { resharding }: Pick<PlanOutput, "resharding">): void {
    if (resharding !== undefined) this.#last = resharding ? undefined : window;
  }

  input(window: number): Pick<PlanInput, "windowsSinceReshard"> {
    return this.#last === undefined ? {} : { windowsSinceReshard: window - this.#last };
  }
}
