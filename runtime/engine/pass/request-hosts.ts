// Which ranks host the experts that a request's tokens choose, so that a gateway can send the next request of its conversation there.
// Counted over some rows of each step.
import type { HostShare } from "../schedule/request.ts";
import type { StepPart } from "../schedule/step-plan.ts";

/** Of long steps every so many-th row counts, so that counting takes no more than about a millisecond. */
const rowsMost = 64;
/** Ranks that are told of, those with most first. */
const hostsMost = 8;

interface Chosen {
  pairs: number;
  readonly byRank: Map<number, number>;
}

export class RequestHosts {
  readonly #hostsOf: (layer: number, expert: number) => readonly number[];
  readonly #byRequest = new Map<string, Chosen>();

  constructor(hostsOf: (layer: number, expert: number) => readonly number[]) {
    this.#hostsOf = hostsOf;
  }

  /** Counts one step: it is told of each expert that a row of the step chose. Steps may run one within the other. */
  counterOf(parts: readonly StepPart[], rows: number): (row: number, layer: number, expert: number) => void {
    const every = Math.ceil(rows / rowsMost);
    const ofRow: Chosen[] = [];
    for (const { id, from, group } of parts) {
      const chosen = this.#byRequest.get(id) ?? { pairs: 0, byRank: new Map() };
      this.#byRequest.set(id, chosen);
      for (let row = from; row < from + group.tokens; row++) ofRow[row] = chosen;
    }
    return (row, layer, expert) => {
      const chosen = row % every === 0 ? ofRow[row] : undefined;
      if (chosen === undefined) return;
      chosen.pairs++;
      for (const rank of this.#hostsOf(layer, expert)) chosen.byRank.set(rank, (chosen.byRank.get(rank) ?? 0) + 1);
    };
  }

  /** Ends the count of a request. */
  take(id: string): readonly HostShare[] {
    const { pairs, byRank } = this.#byRequest.get(id) ?? { pairs: 0, byRank: new Map<number, number>() };
    this.#byRequest.delete(id);
    const shares = Array.from(byRank, ([rank, count]) => ({ rank, share: count / pairs }));
    return shares.sort((a, b) => b.share - a.share || a.rank - b.rank).slice(0, hostsMost);
  }
}
