// Items of consecutive layers on ranks so that flow between layers stays on a rank as far as possible; each rank has a
// fixed number of places per layer. One layer is optimal given its neighbours (an assignment problem); sweeps over the
// layers, from several starts, do the rest. For ExFlow (items = experts) and MoETuner (items = clusters). Pure, seeded.
import type { Random } from "../random.ts";
import { assign } from "./assignment.ts";

export interface Chain {
  readonly layers: number;
  readonly items: number;
  readonly ranks: number;
  /** Flow from item i of a layer to item j of the next. */
  readonly flow: (layer: number, i: number, j: number) => number;
}

/** place[layer][item] = rank */
export type Places = number[][];

const sweepsMax = 12;
/**
 * Work of all sweeps and starts together, in items^3 per assignment of a layer: about 15 s of a core, well within what a plan
 * may take. An amount and not a time, so that every machine makes the same plan.
 */
const workMax = 8e9;

/** Layers that may still be placed. */
interface Work {
  layersLeft: number;
}

/** Flow between ranks: what is minimised. */
export function crossing(chain: Chain, places: Places): number {
  let total = 0;
  for (let l = 0; l + 1 < chain.layers; l++) {
    for (let i = 0; i < chain.items; i++) {
      for (let j = 0; j < chain.items; j++) if (places[l]?.[i] !== places[l + 1]?.[j]) total += chain.flow(l, i, j);
    }
  }
  return total;
}

/** Rank of each place: item n of a layer in order takes seat n. */
export function seats(items: number, ranks: number): number[] {
  return Array.from({ length: items }, (_, n) => Math.floor((n * ranks) / items));
}

/** Improves from `start` (or from nothing) and from random starts; the best is returned, never worse than `start`. */
export function placeChain(chain: Chain, start: Places | undefined, restarts: number, random: Random): Places {
  const usable = start && fits(start, chain) ? start : undefined;
  const plain = seats(chain.items, chain.ranks);
  // Where items do not divide evenly, each layer keeps the ranks that have one more: else a start would be thrown away.
  const seat = Array.from({ length: chain.layers }, (_, l) => usable?.[l]?.toSorted((a, b) => a - b) ?? plain);
  const work: Work = { layersLeft: Math.floor(workMax / chain.items ** 3) };
  let best = usable;
  let least = best ? crossing(chain, best) : Number.POSITIVE_INFINITY;
  const consider = (from: Places): void => {
    const found = settle(chain, from, seat, work);
    const cost = crossing(chain, found);
    if (cost < least - 1e-9) {
      best = found;
      least = cost;
    }
  };
  consider(best ?? (work.layersLeft < chain.layers ? seat : forward(chain, seat, (n) => n, work)));
  for (let r = 0; r < restarts && work.layersLeft >= 2 * chain.layers; r++) {
    if (r % 2 === 0) {
      const order = shuffled(chain.items, random);
      consider(forward(chain, seat, (n) => order[n] as number, work));
    } else consider(disturbed(chain, best as Places, random));
  }
  return best as Places;
}

/** Equal numbers of items on all ranks, as far as they divide. */
function fits(places: Places, { items, ranks }: Chain): boolean {
  return places.every((layer) => {
    const count = new Array<number>(ranks).fill(0);
    for (const g of layer) count[g] = (count[g] ?? 0) + 1;
    return count.every((n) => n === Math.floor(items / ranks) || n === Math.ceil(items / ranks));
  });
}

/** First layer as given, each next one optimal after the one before. */
function forward(chain: Chain, seat: Places, first: (n: number) => number, work: Work): Places {
  work.layersLeft -= chain.layers;
  const places: Places = [];
  for (let l = 0; l < chain.layers; l++) {
    const layer = new Array<number>(chain.items).fill(0);
    if (l === 0) for (let n = 0; n < chain.items; n++) layer[first(n)] = seat[0]?.[n] as number;
    else bestLayer(chain, places, l, seat[l] as number[]).forEach((g, i) => void layer.splice(i, 1, g));
    places.push(layer);
  }
  return places;
}

function settle(chain: Chain, from: Places, seat: Places, work: Work): Places {
  const places = from.map((layer) => layer.slice());
  let cost = crossing(chain, places);
  for (let s = 0; s < sweepsMax && work.layersLeft >= chain.layers; s++) {
    work.layersLeft -= chain.layers;
    for (let n = 0; n < chain.layers; n++) {
      const l = s % 2 === 0 ? n : chain.layers - 1 - n;
      places[l] = bestLayer(chain, places, l, seat[l] as number[]);
    }
    const next = crossing(chain, places);
    if (next >= cost - 1e-9) break;
    cost = next;
  }
  return places;
}

/** Layers l and below are cut and rejoined: ranks of everything after a random layer are permuted, some layers shuffled. */
function disturbed(chain: Chain, best: Places, random: Random): Places {
  const places = best.map((layer) => layer.slice());
  const cut = random.below(Math.max(1, chain.layers));
  const order = shuffled(chain.ranks, random);
  const fits = chain.items % chain.ranks === 0;
  for (let l = cut; l < chain.layers && fits; l++) places[l] = (places[l] as number[]).map((g) => order[g] as number);
  const layer = places[cut] as number[];
  const mixed = shuffled(chain.items, random).map((i) => layer[i] as number);
  places[cut] = mixed;
  return places;
}

function bestLayer(chain: Chain, places: Places, layer: number, seat: readonly number[]): number[] {
  const { items, ranks } = chain;
  const stays = new Float64Array(items * ranks);
  const before = places[layer - 1];
  const after = places[layer + 1];
  for (let i = 0; i < items; i++) {
    for (let k = 0; k < items; k++) {
      if (before) add(stays, i * ranks + (before[k] as number), chain.flow(layer - 1, k, i));
      if (after) add(stays, i * ranks + (after[k] as number), chain.flow(layer, i, k));
    }
  }
  const columns = assign(items, (i, n) => -(stays[i * ranks + (seat[n] as number)] as number));
  return Array.from(columns, (n) => seat[n] as number);
}

function add(values: Float64Array, at: number, amount: number): void {
  values[at] = (values[at] as number) + amount;
}

function shuffled(n: number, random: Random): number[] {
  const order = Array.from({ length: n }, (_, i) => i);
  for (let i = n - 1; i > 0; i--) {
    const j = random.below(i + 1);
    [order[i], order[j]] = [order[j] as number, order[i] as number];
  }
  return order;
}
