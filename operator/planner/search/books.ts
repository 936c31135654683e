// What a plan has spent and what memory is left while layers are changed one after another: moves, bytes, and room for new
// copies beside the old ones of a layer. Pure.
import { type Hosts, type Problem, usedBytes } from "../problem.ts";

/** One layer from old to new hosts; arrays are [ranks]. */
export interface Change {
  readonly layer: number;
  readonly moves: number;
  readonly drops: number;
  /** Stored bytes of all moves. */
  readonly stored: number;
  /** Resident bytes. */
  readonly incoming: Float64Array;
  readonly outgoing: Float64Array;
}

/** What a layer's step from `from` to `to` (rank indexes per expert) moves, drops and brings to each rank. */
export function changeOf(
  problem: Problem,
  layer: number,
  from: readonly (readonly number[])[],
  to: readonly (readonly number[])[],
): Change {
  const { shape } = problem.input;
  const incoming = new Float64Array(problem.G);
  const outgoing = new Float64Array(problem.G);
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
      incoming[g] = (incoming[g] as number) + (shape.residentBytes[i] as number);
    }
    for (const g of before) {
      if (row.includes(g)) continue;
      drops++;
      outgoing[g] = (outgoing[g] as number) + (shape.residentBytes[i] as number);
    }
  });
  return { layer, moves, drops, stored, incoming, outgoing };
}

const slack = 1e-6;

/** Books over whole layers: each layer is taken once, in the order in which they are offered. */
export class Books {
  private readonly problem: Problem;
  private readonly used: Float64Array;
  private moves = 0;
  private bytes = 0;

  constructor(problem: Problem, hosts: Hosts) {
    this.problem = problem;
    this.used = usedBytes(problem, hosts);
  }

  get movesLeft(): number {
    return this.problem.input.budget.maxMoves - this.moves;
  }

  /** Each layer may be asked, and taken, once: old and new copies of a layer coexist until it is freed. */
  fits(change: Change): boolean {
    const { budget } = this.problem.input;
    if (this.moves + change.moves > budget.maxMoves || this.bytes + change.stored > budget.maxBytes) return false;
    for (let g = 0; g < this.problem.G; g++) {
      if (this.overfull(change, g)) return false;
      // A rank that receives nothing cannot get worse, whatever a plan that was cut short left there.
      const peak = (this.used[g] as number) + (change.incoming[g] as number);
      if ((change.incoming[g] as number) > 0 && peak > (this.problem.capacity[g] as number) + this.problem.staging + slack) return false;
    }
    return true;
  }

  /** Would this rank end with more than it may hold? */
  overfull(change: Change, g: number): boolean {
    const after = (this.used[g] as number) + (change.incoming[g] as number) - (change.outgoing[g] as number);
    return (change.incoming[g] as number) > 0 && after > (this.problem.capacity[g] as number) + slack;
  }

  take(change: Change): void {
    this.moves += change.moves;
    this.bytes += change.stored;
    for (let g = 0; g < this.problem.G; g++) {
      this.used[g] = (this.used[g] as number) + (change.incoming[g] as number) - (change.outgoing[g] as number);
    }
  }
}
