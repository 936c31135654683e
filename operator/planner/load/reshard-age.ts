// The age of the last resharding of homes, for policies that reshard rarely: kept beside the plans by whoever asks for them, since
// a policy has no memory. Windows are numbered by the caller. No I/O.
import type { PlanInput, PlanOutput } from "../policy.ts";

export class ReshardAge {
  #last: number | undefined;

  /** Ranks or the load have changed: what homes were sharded for is gone. */
  forget(): void {
    this.#last = undefined;
  }

  /** A plan was taken in this window. What the budget left of a sharding goes on in the next plan. */
  planned(window: number, { resharding }: Pick<PlanOutput, "resharding">): void {
    if (resharding !== undefined) this.#last = resharding ? undefined : window;
  }

  input(window: number): Pick<PlanInput, "windowsSinceReshard"> {
    return this.#last === undefined ? {} : { windowsSinceReshard: window - this.#last };
  }
}
