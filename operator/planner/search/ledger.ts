// The account of a plan while layers change one after another: moves and bytes spent, and memory left for new replicas beside the old
// ones.
import type { MoveBudget } from "../policy.ts";
import { type Hosts, type Problem, usedBytes } from "../problem.ts";

/** One layer from old to new hosts; arrays are [ranks]. */
export interface Change {
  readonly layer: number;
  readonly moves: number;
  readonly drops: number;
  readonly stored: number;
  readonly arrivals: Int32Array;
  readonly incoming: Float64Array;
  readonly outgoing: Float64Array;
}

export function changeOf(
  problem: Problem,
  layer: number,
  from: readonly (readonly number[])[],
  to: readonly (readonly number[])[],
): Change {
  const { shape } = problem.input;
  const incoming = new Float64Array(problem.G);
  const outgoing = new Float64Array(problem.G);
  const arrivals = new Int32Array(problem.G);
  let moves = 0;
  let drops = 0;
  let stored = 0;
  to.forEach((row, e) => {
    const i = layer * problem.E + e;
    const before = from[e] ?? [];
    if (row === before) return;
    for (const g of row) {
      if (before.includes(g)) continue;
      moves++;
      stored += shape.storedBytes[i] as number;
      arrivals[g] = (arrivals[g] as number) + 1;
      incoming[g] = (incoming[g] as number) + (shape.residentBytes[i] as number);
    }
    for (const g of before) {
      if (row.includes(g)) continue;
      drops++;
      outgoing[g] = (outgoing[g] as number) + (shape.residentBytes[i] as number);
    }
  });
  return { layer, moves, drops, stored, arrivals, incoming, outgoing };
}

const slack = 1e-6;

export class Spent {
  #moves = 0;
  #bytes = 0;
  readonly #arrivals: Int32Array;

  constructor(ranks: number) {
    this.#arrivals = new Int32Array(ranks);
  }

  movesLeft({ maxMoves }: MoveBudget): number {
    return maxMoves - this.#moves;
  }

  allows(change: Change, budget: MoveBudget): boolean {
    if (this.#moves + change.moves > budget.maxMoves || this.#bytes + change.stored > budget.maxBytes) return false;
    return this.#arrivals.every((had, g) => {
      const more = change.arrivals[g] as number;
      return more === 0 || had + more <= budget.maxMovesPerRank;
    });
  }

  /** `sign` -1 undoes a layer's change. */
  add(change: Change, sign = 1): void {
    this.#moves += sign * change.moves;
    this.#bytes += sign * change.stored;
    for (let g = 0; g < this.#arrivals.length; g++)
      this.#arrivals[g] = (this.#arrivals[g] as number) + sign * (change.arrivals[g] as number);
  }
}

/** The account of whole layers, each of which may be taken once. */
export class Ledger {
  readonly #problem: Problem;
  readonly #used: Float64Array;
  readonly #spent: Spent;

  constructor(problem: Problem, hosts: Hosts) {
    this.#problem = problem;
    this.#used = usedBytes(problem, hosts);
    this.#spent = new Spent(problem.G);
  }

  get movesLeft(): number {
    return this.#spent.movesLeft(this.#problem.input.budget);
  }

  /** Whether the budget of moves and bytes is left for it. */
  affords(change: Change): boolean {
    return this.#spent.allows(change, this.#problem.input.budget);
  }

  /** Old and new replicas of a layer coexist until it is freed. */
  fits(change: Change): boolean {
    if (!this.affords(change)) return false;
    for (let g = 0; g < this.#problem.G; g++) {
      if (this.overfull(change, g)) return false;
      // A rank that receives nothing passes, even above its limit after an interrupted plan.
      const peak = (this.#used[g] as number) + (change.incoming[g] as number);
      if ((change.incoming[g] as number) > 0 && peak > (this.#problem.capacity[g] as number) + this.#problem.staging + slack) return false;
    }
    return true;
  }

  overfull(change: Change, g: number): boolean {
    const after = (this.#used[g] as number) + (change.incoming[g] as number) - (change.outgoing[g] as number);
    return (change.incoming[g] as number) > 0 && after > (this.#problem.capacity[g] as number) + slack;
  }

  take(change: Change): void {
    this.#spent.add(change);
    for (let g = 0; g < this.#problem.G; g++) {
      this.#used[g] = (this.#used[g] as number) + (change.incoming[g] as number) - (change.outgoing[g] as number);
    }
  }
}
