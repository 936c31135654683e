// A sampler of the ways of tokens from layer to layer, for placement policies that keep them on a rank: of one token in 64
// (transitionSampling), the experts it chose in each layer and in the next, counted by pair. Costs nothing while nobody asks for
// it.
import {
  type Phase,
  phases,
  type Transitions,
  transitionCellsMax,
  transitionPairsMax,
  transitionSampling,
} from "../../../crds/telemetry.ts";
import type { ExpertGrid } from "../../placement/grid.ts";

/** Pairs held between two readings, per phase; of a model with more, new ones are not counted until the next reading. */
const pairsHeldMax = 4 * transitionPairsMax;
const none: readonly number[] = [];

export class TransitionSampler {
  readonly #experts: number;
  readonly #possible: boolean;
  #on = false;
  /** Rows until the next one that is followed. */
  #skip = 0;
  #state = 0x2545f491;
  #counts: Record<Phase, Map<number, number>> = { prefill: new Map(), decode: new Map() };

  /** Cells as in crds/telemetry.ts: `experts` is the width of a row of the model's grid. */
  constructor({ layers, experts }: Pick<ExpertGrid, "layers" | "experts">) {
    this.#experts = experts;
    this.#possible = layers > 1 && (layers - 1) * experts * experts <= transitionCellsMax;
  }

  /** Rows of a step of `rows` tokens to follow, ascending. Gaps vary, so that no place in a batch is always or never chosen. */
  choose(rows: number): readonly number[] {
    if (!this.#on) return none;
    const chosen: number[] = [];
    for (; this.#skip < rows; this.#skip += this.#gap()) chosen.push(this.#skip);
    this.#skip -= rows;
    return chosen;
  }

  /** One token chose the experts `from` in a layer and `to` in the next: every pair counts once. */
  count(phase: Phase, layer: number, from: Int32Array, to: Int32Array): void {
    const counts = this.#counts[phase];
    for (const i of from) {
      for (const j of to) {
        const cell = (layer * this.#experts + i) * this.#experts + j;
        const count = counts.get(cell);
        if (count !== undefined || counts.size < pairsHeldMax) counts.set(cell, (count ?? 0) + 1);
      }
    }
  }

  /** The most frequent pairs counted since the last reading; `wanted` says whether to count on. */
  take(wanted: boolean): Partial<Record<Phase, Transitions>> {
    const taken: Partial<Record<Phase, Transitions>> = {};
    for (const phase of phases) {
      if (this.#counts[phase].size > 0) taken[phase] = mostFrequent(this.#counts[phase], transitionPairsMax);
      this.#counts[phase] = new Map();
    }
    this.#on = wanted && this.#possible;
    return taken;
  }

  /** 1 to 2 x 64 - 1, 64 on average: a linear congruential generator is random enough here. */
  #gap(): number {
    this.#state = (Math.imul(this.#state, 1664525) + 1013904223) >>> 0;
    return 1 + Math.floor((this.#state / 2 ** 32) * (2 * transitionSampling - 1));
  }
}

/** At most so many pairs, the most frequent ones. It takes linear time, since it runs between two steps of the engine. */
function mostFrequent(counts: ReadonlyMap<number, number>, most: number): Transitions {
  const size = Math.min(counts.size, most);
  const byCount = new Map<number, number>();
  for (const count of counts.values()) byCount.set(count, (byCount.get(count) ?? 0) + 1);
  let above = 0;
  let least = Number.POSITIVE_INFINITY;
  for (const [count, pairs] of [...byCount].sort(([a], [b]) => b - a)) {
    least = count;
    if (above + pairs >= size) break;
    above += pairs;
  }
  const taken = { cells: new Uint32Array(size), counts: new Uint32Array(size) };
  let ties = size - above;
  let n = 0;
  for (const [cell, count] of counts) {
    if (count < least || (count === least && ties-- <= 0)) continue;
    taken.cells[n] = cell;
    taken.counts[n++] = count;
  }
  return taken;
}
