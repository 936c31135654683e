// The number of threads that a graph runs on. ggml's threads wait for each other by spinning, so on processors that others use too, two are
// slower than one: beside one busy neighbour they fall to a third.

import { Recent } from "./recent.ts";

/** What is known of graphs of one class. */
export interface GraphCost {
  /** Milliseconds on one thread; 0 before it ran. */
  alone: number;
  /** Runs on one thread so far. */
  runs: number;
}

/** Classes of graphs of which costs are kept: by rows, context and segment, of all calls of a while. */
const classesMax = 512;
/** Sizes of one class differ by at most a factor of 2^(1 / this). */
const classesPerDoubling = 4;

/** Costs of graphs by what they are: those of as many steps on about as large values cost the same, such as layers of one shape, or a
 *  prefill's pieces of about as many rows. */
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

/** Runs on one thread before a graph runs on more. */
const baselineRuns = 3;
/** Graphs that take less are not worth the start of a second thread. */
const worthMs = 0.02;
/** Time on one thread of the graphs that are judged together. */
const windowMs = 40;
/** More threads must take at most this share of the time on one: beside a neighbour they take a multiple of it. */
const gainMax = 1;
/** A single graph that takes so many times its time on one thread, and so much longer, ends the attempt at once. */
const stallRatio = 8;
const stallMs = 20;
/** For so long one thread is used after an attempt that gained nothing; doubled each time. */
const restMs = { first: 250, most: 64_000 } as const;
/** Weight of the last run in a graph's time on one thread. */
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

  /** `most`: threads there are; `now`: milliseconds. */
  constructor(most: number, now: () => number) {
    this.#most = most;
    this.#now = now;
  }

  /** Threads for the next run. */
  choose({ alone, runs }: GraphCost): number {
    if (this.#most === 1 || runs < baselineRuns || alone < worthMs) return 1;
    return this.#now() < this.#until ? 1 : this.#most;
  }

  /** Takes note of a run. */
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
