// Chooses the threads of a graph. ggml's threads spin while they wait, so beside one busy process two are slower than one.

import { Recent } from "./recent.ts";

export interface GraphCost {
  /** Milliseconds on one thread; 0 before the first run. */
  alone: number;
  runs: number;
}

const classesMax = 512;
/** Sizes of one class differ by at most a factor of 2^(1 / this). */
const classesPerDoubling = 4;

/** Costs by class: graphs with as many steps and about as large values cost the same. */
export class GraphCosts {
  readonly #classes = new Recent<GraphCost>(classesMax, () => {});

  /** `steps`: nodes that compute; `bytes`: of all values of the graph. */
  of(steps: number, bytes: number): GraphCost {
    const size = Math.round(classesPerDoubling * Math.log2(Math.max(1, bytes)));
    return this.#classes.take(
      `${steps}.${size}`,
      () => true,
      () => ({ alone: 0, runs: 0 }),
    );
  }
}

const baselineRuns = 3;
const worthMs = 0.02;
const windowMs = 40;
/** More threads must take at most this part of the time on one. */
const gainMax = 1;
/** A graph that exceeds its single-thread time by this factor and difference ends the attempt. */
const stallRatio = 8;
const stallMs = 20;
/** The pause after an attempt without a gain; doubled each time. */
const restMs = { first: 250, most: 64_000 } as const;
const newest = 0.2;

export interface Governor {
  choose(cost: GraphCost): number;
  took(cost: GraphCost, threads: number, ms: number): void;
}

export class ThreadGovernor implements Governor {
  readonly #most: number;
  readonly #now: () => number;
  #expected = 0;
  #actual = 0;
  #rest: number = restMs.first;
  #until = 0;

  constructor(most: number, now: () => number) {
    this.#most = most;
    this.#now = now;
  }

  choose({ alone, runs }: GraphCost): number {
    if (this.#most === 1 || runs < baselineRuns || alone < worthMs) return 1;
    return this.#now() < this.#until ? 1 : this.#most;
  }

  took(cost: GraphCost, threads: number, ms: number): void {
    if (threads === 1) {
      cost.alone = cost.runs < 2 ? ms : cost.alone + newest * (ms - cost.alone);
      cost.runs += 1;
      return;
    }
    this.#expected += cost.alone;
    this.#actual += ms;
    const stalled = ms > stallRatio * cost.alone && ms > cost.alone + stallMs;
    if (!stalled && this.#expected < windowMs) return;
    const gained = !stalled && this.#actual <= gainMax * this.#expected;
    if (!gained) this.#until = this.#now() + this.#rest;
    this.#rest = gained ? restMs.first : Math.min(2 * this.#rest, restMs.most);
    this.#expected = 0;
    this.#actual = 0;
  }
}
