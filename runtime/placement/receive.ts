// The receive schedule: sources and rounds such that in a round every source sends and every receiver takes at most one expert (König's
// edge colouring). Each rank computes it alone.
import type { Move } from "../../crds/plan.ts";

export interface Fetch {
  readonly layer: number;
  readonly expert: number;
  readonly rank: number;
  /** The rank to ask first; undefined means the model store. */
  readonly source: number | undefined;
  readonly round: number;
}

/** Rounds follow the order of layers where possible, so that layers complete one after another. */
export function receiveSchedule(moves: readonly Pick<Move, "layer" | "expert" | "rank" | "sources">[]): Fetch[] {
  const ordered = moves.toSorted((a, b) => a.layer - b.layer || a.expert - b.expert || a.rank - b.rank);
  const sources = chooseSources(ordered.map((move) => move.sources.filter((rank) => rank !== move.rank)));
  const rounds = edgeColours(ordered.map((move, i) => ({ source: sources[i], receiver: move.rank })));
  return ordered.map(({ layer, expert, rank }, i) => ({ layer, expert, rank, source: sources[i], round: rounds[i] as number }));
}

/** One source per row such that the busiest source has as few as possible; undefined for empty rows. */
function chooseSources(options: readonly (readonly number[])[]): (number | undefined)[] {
  const choice = new Choice(options);
  const fewestFirst = options.map((_, i) => i).sort((a, b) => (options[a]?.length ?? 0) - (options[b]?.length ?? 0) || a - b);
  for (const i of fewestFirst) choice.settle(i);
  while (choice.relieve());
  return choice.chosen;
}

class Choice {
  readonly chosen: (number | undefined)[];
  readonly #options: readonly (readonly number[])[];
  readonly #given = new Map<number, Set<number>>();

  constructor(options: readonly (readonly number[])[]) {
    this.#options = options;
    this.chosen = new Array<number | undefined>(options.length).fill(undefined);
    for (const row of options) for (const source of row) if (!this.#given.has(source)) this.#given.set(source, new Set());
  }

  #load(source: number): number {
    return this.#given.get(source)?.size ?? 0;
  }

  settle(fetch: number): void {
    let best: number | undefined;
    for (const source of this.#options[fetch] ?? []) if (best === undefined || this.#load(source) < this.#load(best)) best = source;
    if (best !== undefined) this.#give(fetch, best);
  }

  #give(fetch: number, source: number): void {
    this.#given.get(this.chosen[fetch] ?? source)?.delete(fetch);
    this.#given.get(source)?.add(fetch);
    this.chosen[fetch] = source;
  }

  /** Moves fetches along a path from a busiest source to one with at least two fewer; false without such a path. */
  relieve(): boolean {
    let most = 0;
    for (const fetches of this.#given.values()) most = Math.max(most, fetches.size);
    for (const [start, { size }] of this.#given) {
      if (size < most) continue;
      const path = this.#path(start, most - 2);
      for (const { fetch, to } of path ?? []) this.#give(fetch, to);
      // Without a path all reachable sources are equally busy, bar one fetch each, so the choice is optimal.
      return path !== undefined;
    }
    return false;
  }

  #path(start: number, loadMax: number): readonly { readonly fetch: number; readonly to: number }[] | undefined {
    const cameBy = new Map<number, { fetch: number; to: number; from: number } | undefined>([[start, undefined]]);
    const open = [start];
    for (let at = 0; at < open.length; at++) {
      const from = open[at] as number;
      if (this.#load(from) <= loadMax) {
        const path: { fetch: number; to: number }[] = [];
        for (let step = cameBy.get(from); step; step = cameBy.get(step.from)) path.push(step);
        return path;
      }
      for (const fetch of this.#given.get(from) ?? []) {
        for (const to of this.#options[fetch] ?? []) {
          if (cameBy.has(to)) continue;
          cameBy.set(to, { fetch, to, from });
          open.push(to);
        }
      }
    }
    return undefined;
  }
}

interface Edge {
  readonly source: number | undefined;
  readonly receiver: number;
}

/** One colour per edge, none twice at a vertex, 0 .. highest degree - 1. Edges without a source only use the receiver. */
function edgeColours(edges: readonly Edge[]): number[] {
  const colours = new Array<number>(edges.length).fill(-1);
  const senders = new Vertices();
  const receivers = new Vertices();
  for (const [i, { source, receiver }] of edges.entries()) {
    if (source === undefined) continue;
    const sender = senders.at(source);
    const taker = receivers.at(receiver);
    const mine = lowestFree(sender);
    const theirs = lowestFree(taker);
    const both = Math.max(mine, theirs);
    const colour = sender[both] === undefined && taker[both] === undefined ? both : mine;
    if (taker[colour] !== undefined) swapPath({ edges, colours, senders, receivers }, receiver, mine, theirs);
    colours[i] = colour;
    sender[colour] = i;
    taker[colour] = i;
  }
  for (const [i, { source, receiver }] of edges.entries()) {
    if (source !== undefined) continue;
    const taker = receivers.at(receiver);
    const colour = lowestFree(taker);
    colours[i] = colour;
    taker[colour] = i;
  }
  return colours;
}

class Vertices {
  readonly #byId = new Map<number, (number | undefined)[]>();

  at(id: number): (number | undefined)[] {
    let row = this.#byId.get(id);
    if (!row) {
      row = [];
      this.#byId.set(id, row);
    }
    return row;
  }
}

function lowestFree(vertex: readonly (number | undefined)[]): number {
  for (let colour = 0; ; colour++) if (vertex[colour] === undefined) return colour;
}

interface Colouring {
  readonly edges: readonly Edge[];
  readonly colours: number[];
  readonly senders: Vertices;
  readonly receivers: Vertices;
}

/** Swaps colours a and b along the receiver's path from a; it cannot end at the sender whose free colour is a. */
function swapPath({ edges, colours, senders, receivers }: Colouring, receiver: number, a: number, b: number): void {
  const path: number[] = [];
  let vertex = receivers.at(receiver);
  for (let colour = a, side = 0; vertex[colour] !== undefined; colour = colour === a ? b : a, side = 1 - side) {
    const edge = vertex[colour] as number;
    path.push(edge);
    const { source, receiver: next } = edges[edge] as Edge;
    vertex = side === 0 ? senders.at(source as number) : receivers.at(next);
  }
  const ends = (edge: number): (number | undefined)[][] => {
    const { source, receiver: taker } = edges[edge] as Edge;
    return [senders.at(source as number), receivers.at(taker)];
  };
  for (const edge of path) for (const end of ends(edge)) end[colours[edge] as number] = undefined;
  for (const edge of path) {
    colours[edge] = colours[edge] === a ? b : a;
    for (const end of ends(edge)) end[colours[edge] as number] = edge;
  }
}
