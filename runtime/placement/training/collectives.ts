// Schedules of the sparse all-gather (spAG) and sparse reduce-scatter (spRS): who sends which piece of which chunk to whom, in which
// round. A rank sends and receives one piece per round.
import type { Blocks } from "./blocks.ts";

export interface Transfer {
  readonly round: number;
  readonly from: number;
  readonly to: number;
  readonly chunk: number;
  readonly piece: number;
}

/** `after` is the edge that brings the sender its data, -1 where the sender has it. */
interface Edge {
  readonly from: number;
  readonly to: number;
  readonly after: number;
}

/** The edges by which data passes from the first of the ranks to the others. */
export type Edges = (ranks: readonly number[]) => Edge[];

const chain: Edges = (ranks) => ranks.slice(1).map((to, i) => ({ from: ranks[i] as number, to, after: i - 1 }));

/** The hosts of each chunk, before the gather only the primaries. */
export interface Placement {
  readonly primaries: readonly number[];
  /** hosts[chunk], the primary included. */
  readonly hosts: readonly (readonly number[])[];
  readonly node: ArrayLike<number>;
}

/** spAG: replicas of each chunk go from its primary to its other hosts, those of its node first, then node by node. */
export function gatherSchedule({ primaries, hosts, node }: Placement, pieces: number, edges = chain): Transfer[] {
  const ways = hosts.map((row, chunk) => {
    const primary = primaries[chunk] as number;
    const far = (rank: number): number => (node[rank] === node[primary] ? -1 : (node[rank] as number));
    const others = row.filter((rank) => rank !== primary).sort((a, b) => far(a) - far(b) || a - b);
    return edges([primary, ...others]);
  });
  return scheduled(ways, pieces);
}

export interface Reduction {
  readonly blocks: Blocks;
  readonly primaries: readonly number[];
  /** Primaries have earlier sums, to which these are added. */
  readonly carried: boolean;
}

/** The ranks that a chunk's gradient passes: its primary if it has a sum already, its hosts in micro-batch order, and its primary. */
export function reducePath({ blocks, primaries, carried }: Reduction, chunk: number): number[] {
  const primary = primaries[chunk] as number;
  const path = (blocks[chunk] ?? []).map(({ host }) => host);
  if (path.length === 0) return path;
  if (path.at(-1) !== primary) path.push(primary);
  return carried && path[0] !== primary ? [primary, ...path] : path;
}

export function reduceSchedule(reduction: Reduction, pieces: number): Transfer[] {
  return scheduled(
    reduction.blocks.map((_, chunk) => chain(reducePath(reduction, chunk))),
    pieces,
  );
}

/** The used rounds of one rank in one direction, as links to the next free round (path compression). */
class Rounds {
  readonly #next: number[] = [];

  free(round: number): number {
    let found = round;
    for (let next = this.#next[found]; next !== undefined; next = this.#next[found]) found = next;
    for (let at = round; at !== found; ) {
      const next = this.#next[at] as number;
      this.#next[at] = found;
      at = next;
    }
    return found;
  }

  take(round: number): void {
    this.#next[round] = round + 1;
  }
}

/** Each piece of each edge takes the first round in which its sender has it and both ends are free. */
function scheduled(ways: readonly (readonly Edge[])[], pieces: number): Transfer[] {
  const [sending, receiving] = [new Map<number, Rounds>(), new Map<number, Rounds>()];
  const roundsOf = (by: Map<number, Rounds>, rank: number): Rounds => {
    const rounds = by.get(rank) ?? new Rounds();
    by.set(rank, rounds);
    return rounds;
  };
  const transfers: Transfer[] = [];
  for (let piece = 0; piece < pieces; piece++) {
    for (const [chunk, edges] of ways.entries()) {
      const rounds: number[] = [];
      for (const { from, to, after } of edges) {
        const [sends, receives] = [roundsOf(sending, from), roundsOf(receiving, to)];
        let round = sends.free(after < 0 ? 0 : (rounds[after] as number) + 1);
        for (let other = receives.free(round); other !== round; other = receives.free(round)) round = sends.free(other);
        sends.take(round);
        receives.take(round);
        rounds.push(round);
        transfers.push({ round, from, to, chunk, piece });
      }
    }
  }
  return transfers.sort((a, b) => a.round - b.round || a.chunk - b.chunk || a.piece - b.piece || a.to - b.to);
}
