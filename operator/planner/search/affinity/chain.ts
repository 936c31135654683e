// Items of consecutive layers on ranks so that flow between layers stays on a rank as far as possible; each rank has a
// fixed number of places per layer. Few layouts: the optimum. Else a search: one layer is optimal given its neighbours (an
// assignment problem); sweeps over the layers, from several starts, and kicks that change several layers at once do the rest.
// For ExFlow (items = experts) and MoETuner (items = clusters). Pure, seeded.
import { type Random, shuffled } from "../../random.ts";
import { assign } from "./assignment.ts";
import { bestLayouts } from "./layouts.ts";

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
 * Work of all sweeps, starts and kicks together, in items^3 per assignment of a layer: about 15 s of a core, well within what a
 * plan may take. An amount and not a time, so that every machine makes the same plan.
 */
const workMax = 8e9;

/** The width of the search beyond the first start. */
interface Effort {
  /** Starts from random first layers. */
  readonly starts: number;
  /** Disturbances of the best found, each followed by sweeps where it struck. */
  readonly kicks: number;
}

/** A sweep takes items^3 x layers: small chains are searched from more starts, and further. */
const smallItems = 16;
const small: Effort = { starts: 12, kicks: 1200 };
const large: Effort = { starts: 1, kicks: 60 };

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

/** The least crossing that a bounded search finds, never more than that of `start`, and named as much like `start` as it can be. */
export function placeChain(chain: Chain, start: Places | undefined, random: Random): Places {
  const usable = start && fits(start, chain) ? start : undefined;
  const plain = seats(chain.items, chain.ranks);
  // Each layer keeps the ranks that have one item more, where items do not divide evenly: else a start would be thrown away.
  const seat = Array.from({ length: chain.layers }, (_, l) => usable?.[l]?.toSorted((a, b) => a - b) ?? plain);
  const best = optimum(chain, seat) ?? searched(chain, usable, seat, random);
  if (!usable || crossing(chain, best) >= crossing(chain, usable) - 1e-9) return usable ?? best;
  return chain.items % chain.ranks === 0 ? renamed(chain, best, usable) : best;
}

function optimum(chain: Chain, seat: Places): Places | undefined {
  const counts = new Array<number>(chain.ranks).fill(0);
  for (const g of seat[0] ?? []) counts[g] = (counts[g] as number) + 1;
  if (seat.some((row) => row.some((g, n) => g !== seat[0]?.[n]))) return undefined;
  return bestLayouts(chain.layers, counts, chain.flow);
}

/** Improves from a start (or from nothing), from random ones, and by kicks. */
function searched(chain: Chain, start: Places | undefined, seat: Places, random: Random): Places {
  const effort = chain.items <= smallItems ? small : large;
  const work: Work = { layersLeft: Math.floor(workMax / chain.items ** 3) };
  let best = start;
  let least = best ? crossing(chain, best) : Number.POSITIVE_INFINITY;
  const consider = (from: Places): void => {
    const found = settle(chain, { from, seat }, work);
    const cost = crossing(chain, found);
    if (cost >= least - 1e-9) return;
    best = found;
    least = cost;
  };
  consider(best ?? (work.layersLeft < chain.layers ? seat : forward(chain, seat, (n) => n, work)));
  for (let r = 0; r < effort.starts && work.layersLeft >= 2 * chain.layers; r++) {
    const order = shuffled(chain.items, random);
    consider(forward(chain, seat, (n) => order[n] as number, work));
  }
  return wandered(chain, { best: best as Places, seat, kicks: effort.kicks }, work, random);
}

/** A kick may lead to what is worse by this part of the best. */
const worseBy = 0.04;
/** After this many kicks in a row without a new best the walk goes on from the best. Both tried on chains with a known optimum. */
const backAfter = 60;

interface Walk {
  readonly best: Places;
  readonly seat: Places;
  readonly kicks: number;
}

/** A walk of kicks, each settled, from the best on: out of where sweeps get stuck. */
function wandered(chain: Chain, walk: Walk, work: Work, random: Random): Places {
  let best = walk.best;
  let least = crossing(chain, best);
  let here = best;
  let idle = 0;
  for (let k = 0; k < walk.kicks && least > 0 && work.layersLeft >= 2 * chain.layers; k++) {
    const { places, struck } = kicked(chain, here, random);
    const found = settle(chain, { from: places, seat: walk.seat, struck }, work);
    const cost = crossing(chain, found);
    if (cost <= least * (1 + worseBy)) here = found;
    if (cost < least - 1e-9) {
      best = found;
      least = cost;
      idle = 0;
    } else if (++idle % backAfter === 0) here = best;
  }
  return best;
}

/** Ranks renamed throughout, which changes no crossing, so that as many items as possible stay where they are. */
function renamed(chain: Chain, places: Places, start: Places): Places {
  const same = new Float64Array(chain.ranks ** 2);
  places.forEach((row, l) => {
    row.forEach((g, i) => {
      add(same, g * chain.ranks + (start[l]?.[i] as number), 1);
    });
  });
  const name = assign(chain.ranks, (g, h) => -(same[g * chain.ranks + h] as number));
  return places.map((row) => row.map((g) => name[g] as number));
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

/** Sweeps to and fro over the layers that something next to them has changed; at first all, or those that were struck. */
function settle(
  chain: Chain,
  { from, seat, struck }: { readonly from: Places; readonly seat: Places; readonly struck?: ReadonlySet<number> },
  work: Work,
): Places {
  const places = from.slice();
  const open = new Set(struck ? around(chain, struck) : places.keys());
  for (let s = 0; s < sweepsMax && open.size > 0 && work.layersLeft >= chain.layers; s++) {
    for (const l of [...open].sort((a, b) => (s % 2 === 0 ? a - b : b - a))) {
      work.layersLeft--;
      open.delete(l);
      const better = bestLayer(chain, places, l, seat[l] as number[]);
      if (beside(chain, places, l, better) >= beside(chain, places, l, places[l] as number[]) - 1e-9) continue;
      places[l] = better;
      if (l > 0) open.add(l - 1);
      if (l + 1 < chain.layers) open.add(l + 1);
    }
  }
  return places;
}

/** The given layers and their neighbours. */
function around(chain: Chain, layers: ReadonlySet<number>): number[] {
  return [...layers].flatMap((l) => [l - 1, l, l + 1]).filter((l) => l >= 0 && l < chain.layers);
}

/** Flow that changes rank between a layer, placed like this, and its neighbours. */
function beside(chain: Chain, places: Places, layer: number, row: readonly number[]): number {
  let total = 0;
  for (let i = 0; i < chain.items; i++) {
    for (let k = 0; k < chain.items; k++) {
      if (layer > 0 && places[layer - 1]?.[k] !== row[i]) total += chain.flow(layer - 1, k, i);
      if (layer + 1 < chain.layers && places[layer + 1]?.[k] !== row[i]) total += chain.flow(layer, i, k);
    }
  }
  return total;
}

/**
 * A random change that sweeps cannot make, since they change one layer at a time: two items of different ranks change places, and so
 * do those that most of their flow goes to, over a random number of layers. One kick in four exchanges the two ranks as a whole from
 * a layer on.
 */
function kicked(chain: Chain, best: Places, random: Random): { places: Places; struck: ReadonlySet<number> } {
  const places = best.slice();
  const first = random.below(chain.layers);
  const row = places[first] as number[];
  let a = random.below(chain.items);
  let b = (a + 1 + random.below(Math.max(1, chain.items - 1))) % chain.items;
  const [g, h] = [row[a] as number, row[b] as number];
  if (random.below(4) === 0 && chain.items % chain.ranks === 0) {
    for (let l = first; l < chain.layers; l++) places[l] = (places[l] as number[]).map((rank) => (rank === g ? h : rank === h ? g : rank));
    return { places, struck: new Set([first]) };
  }
  const struck = new Set<number>();
  const length = 1 + random.below(Math.min(lengthMax, chain.layers - first));
  for (let l = first; l < first + length; l++) {
    const next = (places[l] as number[]).slice();
    if (l > first) [a, b] = [follower(chain, l, a, { row: next, rank: g }), follower(chain, l, b, { row: next, rank: h })];
    if (a < 0 || b < 0) break;
    next[a] = h;
    next[b] = g;
    places[l] = next;
    struck.add(l);
  }
  return { places, struck };
}

/** Layers that one kick changes at most. */
const lengthMax = 64;

/** The item that gets most of an item's flow among those that a layer has on a rank; -1 if it has none. */
function follower(
  chain: Chain,
  layer: number,
  item: number,
  { row, rank }: { readonly row: readonly number[]; readonly rank: number },
): number {
  let best = -1;
  for (let j = 0; j < chain.items; j++) {
    if (row[j] !== rank) continue;
    if (best < 0 || chain.flow(layer - 1, item, j) > chain.flow(layer - 1, item, best)) best = j;
  }
  return best;
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
