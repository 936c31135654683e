// Which of this rank's planned copies may give way, while memory is full, to experts that no other rank holds, and when they come
// back. The room is made by resident-set.ts, the loading is done by worker-plan.ts.
import type { PlanState } from "../engine/core/plan-state.ts";
import type { GiveWay } from "../experts/materializer.ts";
import type { Peers } from "../experts/peers.ts";
import type { ResidentSet } from "../experts/resident-set.ts";
import type { Log } from "../observe/log.ts";
import { hash32 } from "../placement/dispatch.ts";

/** It is looked so often whether experts loaded on demand are still used. */
const comeBackMs = 5_000;

export interface GiveWayOptions {
  readonly state: Pick<PlanState, "current" | "next">;
  readonly peers: Pick<Peers, "self" | "usable">;
  readonly residents: Pick<ResidentSet, "pressed">;
  readonly log: Log;
  /** There is room again: what gave way may be loaded. */
  readonly comeBack: () => void;
}

export class CopiesThatGaveWay implements GiveWay {
  readonly #options: GiveWayOptions;
  /** "layer.expert". */
  readonly #away = new Set<string>();
  #timer: NodeJS.Timeout | undefined;

  constructor(options: GiveWayOptions) {
    this.#options = options;
  }

  /**
   * A copy may give way while another live host keeps its expert, by the committed placement and by the one that is being
   * prepared. Which host keeps it follows from its name, so that each of them may give up its part and not all the same.
   */
  readonly may = (layer: number, expert: number): boolean => {
    const { state, peers } = this.#options;
    const placements = [state.current(layer), state.next(layer)].filter((placement) => placement !== undefined);
    return placements.every(({ hosts }) => {
      const live = (hosts[expert] ?? []).filter((rank) => peers.usable(rank)).sort((a, b) => a - b);
      const keeper = live[hash32(layer, expert) % Math.max(1, live.length)];
      return keeper !== undefined && keeper !== peers.self.rank;
    });
  };

  readonly done = (layer: number, expert: number): void => {
    if (this.#away.size === 0) this.#options.log.info({}, "memory is full: copies give way to experts that no other rank holds");
    this.#away.add(`${layer}.${expert}`);
    this.#later();
  };

  /** Is this copy to stay away for now? None is once nothing that was loaded on demand is used any more. */
  isAway(layer: number, expert: number): boolean {
    if (this.#away.size > 0 && !this.#options.residents.pressed()) this.#away.clear();
    return this.#away.has(`${layer}.${expert}`);
  }

  close(): void {
    clearTimeout(this.#timer);
  }

  #later(): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      if (this.#options.residents.pressed()) this.#later();
      else this.#options.comeBack();
    }, comeBackMs);
    this.#timer.unref();
  }
}
