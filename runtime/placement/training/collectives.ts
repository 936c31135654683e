// Sparse all-gather and sparse reduce-scatter as data: who sends which piece of which chunk to whom, and in which round. A rank sends
// and receives one piece a round. Pure; nothing here sends.
import type { Blocks } from "./blocks.ts";

export interface Transfer {
  readonly round: number;
  readonly from: number;
  readonly to: number;
  /** Of the layer, by its number (chunks.ts). */
  readonly chunk: number;
  readonly piece: number;
}

/** A way of one chunk: `after` is the edge that brings the sender what it sends, -1 where it has it. */
interface Edge {
  readonly from: number;
  readonly to: number;
  readonly after: number;
}

type Spread = (ranks: readonly number[]) => Edge[];

/** How expert replicas spread from the first of the ranks. To add one: one line. */
const spreads = {
  /** Each passes on what it gets: every rank sends a chunk once at most. */
  chain: (ranks) => ranks.slice(1).map((to, i) => ({ from: ranks[i] as number, to, after: i - 1 })),
  tree: (ranks) =>
    ranks.slice(1).map((to, i) => {
      const parent = i + 1 - 2 ** Math.floor(Math.log2(i + 1));
      return { from: ranks[parent] as number, to, after: parent - 1 };
    }),
  unicast: (ranks) => ranks.slice(1).map((to) => ({ from: ranks[0] as number, to, after: -1 })),
} as const satisfies Readonly<Record<string, Spread>>;
export type SpreadName = keyof typeof spreads;
export const spreadNames = Object.keys(spreads) as readonly SpreadName[];

/** Where each rank and each chunk is: P0 has primaries alone, P1 the hosts as well. */
export interface Placement {
  /** Of each chunk. */
  readonly primaries: readonly number[];
  /** Of each chunk, with the primary among them. */
  readonly hosts: readonly (readonly number[])[];
  /** Node of each rank. */
  readonly node: ArrayLike<number>;
}

/** spAG: expert replicas of each chunk from its primary to its other hosts, those of its node first and then node by node. */
export function gatherSchedule({ primaries, hosts, node }: Placement, spread: SpreadName, pieces: number): Transfer[] {
  const ways = hosts.map((row, chunk) => {
    const primary = primaries[chunk] as number;
    const far = (rank: number): number => (node[rank] === node[primary] ? -1 : (node[rank] as number));
    const others = row.filter((rank) => rank !== primary).sort((a, b) => far(a) - far(b) || a - b);
    return spreads[spread]([primary, ...others]);
  });
  return scheduled(ways, pieces);
}

export interface Reduction {
  /** Of each chunk, as the primaries are. */
  readonly blocks: Blocks;
  readonly primaries: readonly number[];
  /** Primaries have sums of lanes before these, to which they are added. */
  readonly carried: boolean;
}

/** The ranks that a chunk's gradient passes: its primary if it has a sum already, its hosts in the order of lanes, its primary, where it ends. */
export function reducePath({ blocks, primaries, carried }: Reduction, chunk: number): number[] {
  const primary = primaries[chunk] as number;
  const path = (blocks[chunk] ?? []).map(({ host }) => host);
  if (path.length === 0) return path;
  if (path.at(-1) !== primary) path.push(primary);
  return carried && path[0] !== primary ? [primary, ...path] : path;
}

/** spRS: the sums of each chunk along its path, in which the primary may come more than once. */
export function reduceSchedule(reduction: Reduction, pieces: number): Transfer[] {
  return scheduled(
    reduction.blocks.map((_, chunk) => spreads.chain(reducePath(reduction, chunk))),
    pieces,
  );
}

/** Rounds of one rank in one direction: those taken, as steps towards the first free one after each. */
class Rounds {
  readonly #next: number[] = [];

  /** The first free round from `round` on; what was passed on the way is passed at once the next time. */
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

/** Rounds: each piece of each edge has the first in which its sender has it, sends nothing else, and its receiver gets nothing else. */
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
