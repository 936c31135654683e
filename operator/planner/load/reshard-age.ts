// The age of the last resharding of primaries, for policies that reshard rarely. A policy has no memory, so those that ask it for plans keep
// this beside them, and number the windows. No I/O.
import type { PlanInput, PlanOutput } from "../policy.ts";

export class ReshardAge {
  #last: number | undefined;

  /** Forgets when primaries were sharded, since ranks or the load have changed. */
  forget(): void {
    this.#last = undefined;
  }

  /** Takes note of a plan that was taken in this window. A sharding that the budget cut short goes on in the next plan. */
  planned(window: number, { resharding }: Pick<PlanOutput, "resharding">): void {
    if (resharding !== undefined) this.#last = resharding ? undefined : window;
  }

  input(window: number): Pick<PlanInput, "windowsSinceReshard"> {
    return this.#last === undefined ? {} : { windowsSinceReshard: window - this.#last };
  }
}
