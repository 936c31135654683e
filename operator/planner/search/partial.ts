// A part of a layer's way to its target when the whole exceeds budget or memory: groups of experts that move together, the highest gain
// per replica first.
import { sum } from "../../../runtime/placement/imbalance.ts";
import { splitLayer } from "../../../runtime/placement/split.ts";
import { layerDemand, type Problem } from "../problem.ts";
import { raise, root } from "./layer-state.ts";
import { type Change, changeOf, type Ledger } from "./ledger.ts";

type Rows = readonly (readonly number[])[];

export interface Way {
  readonly layer: number;
  /** hosts[e] as rank indexes, now and in the target. */
  readonly from: Rows;
  readonly to: Rows;
  readonly leastRate: number;
  readonly gain: (rows: Rows, now: Rows) => number;
  readonly take: (rows: number[][]) => void;
}

/** Experts per step that are tried as the first of a group: those with most rows on hot ranks. */
const seedsMax = 48;
const groupMax = 12;
const splitSweeps = 6;
/** A step without moves counts as this part of a replica. */
const dropCost = 0.1;
const least = 1e-9;

/** Moves a layer part of its way within budget and memory; true if the ledger has booked anything. */
export function applyInPart(problem: Problem, ledger: Ledger, way: Way): boolean {
  const walk: Walk = { problem, ledger, way };
  let rows = way.from.map((row) => row.slice());
  let change: Change | undefined;
  for (let step = 0; step < problem.E; step++) {
    const best = bestGroup(walk, rows);
    if (!best) break;
    rows = best.rows;
    change = best.change;
    way.take(rows);
  }
  if (!change) return false;
  ledger.take(change);
  return true;
}

interface Walk {
  readonly problem: Problem;
  readonly ledger: Ledger;
  readonly way: Way;
}

interface Group {
  readonly rows: number[][];
  readonly change: Change;
  readonly rate: number;
}

function bestGroup(walk: Walk, now: number[][]): Group | undefined {
  const { problem, way } = walk;
  let best: Group | undefined;
  const before = changeOf(problem, way.layer, way.from, now).moves;
  for (const seed of seeds(problem, way, now)) {
    const group = closed(walk, now, seed);
    if (!group) continue;
    const gain = way.gain(group.rows, now);
    const rate = gain / Math.max(dropCost, group.change.moves - before);
    if (gain > least && rate >= way.leastRate && rate > (best?.rate ?? 0)) best = { rows: group.rows, change: group.change, rate };
  }
  return best;
}

/** Experts that are not at their target, first those on the hottest rank. */
function seeds(problem: Problem, way: Way, now: Rows): number[] {
  const open = now.flatMap((row, e) => (same(row, way.to[e] ?? []) ? [] : [e]));
  if (open.length <= seedsMax) return open;
  const split = splitLayer({ demand: layerDemand(problem, way.layer), hosts: now, speed: problem.speed }, splitSweeps);
  const level = split.load.map((load, g) => ((problem.speed[g] as number) > 0 ? load / (problem.speed[g] as number) : 0));
  const burden = (e: number): number =>
    (now[e] ?? []).reduce((most, g, i) => Math.max(most, (level[g] ?? 0) * (split.rows[e]?.[i] ?? 0)), 0);
  const order = new Map(open.map((e) => [e, burden(e)]));
  return open.sort((a, b) => (order.get(b) ?? 0) - (order.get(a) ?? 0) || a - b).slice(0, seedsMax);
}

/** The seed and the experts that must leave so that it fits; undefined when they are too many or the ledger refuses. */
function closed(walk: Walk, now: number[][], seed: number): { readonly rows: number[][]; readonly change: Change } | undefined {
  const { problem, ledger, way } = walk;
  const rows = now.slice();
  const experts: number[] = [];
  for (let next: number | undefined = seed; next !== undefined; ) {
    experts.push(next);
    rows[next] = (way.to[next] ?? []).slice();
    const change = changeOf(problem, way.layer, way.from, rows);
    if (change.moves > ledger.movesLeft || experts.length > groupMax) return undefined;
    const full = fullRank(walk, rows, change);
    if (full === undefined) return ledger.fits(change) ? { rows, change } : undefined;
    next = leaver(way, rows, full, experts);
    if (next === undefined) return undefined;
  }
  return undefined;
}

function fullRank({ problem, ledger, way }: Walk, rows: Rows, change: Change): number | undefined {
  const count = countOn(problem, rows);
  const wanted = countOn(problem, way.to);
  const most = Math.max(...wanted);
  const had = countOn(problem, way.from);
  for (let g = 0; g < problem.G; g++) {
    if (ledger.overfull(change, g)) return g;
    const cap = Math.min(problem.slotCap, Math.max(most, had[g] as number));
    if ((count[g] as number) > cap) return g;
  }
  return undefined;
}

function countOn(problem: Problem, rows: Rows): Int32Array {
  const count = new Int32Array(problem.G);
  for (const row of rows) for (const g of row) count[g] = (count[g] as number) + 1;
  return count;
}

function leaver(way: Way, rows: Rows, full: number, experts: readonly number[]): number | undefined {
  const left = new Set(experts.flatMap((e) => (way.from[e] ?? []).filter((g) => !(way.to[e] ?? []).includes(g))));
  let found: number | undefined;
  for (let e = 0; e < rows.length; e++) {
    const to = way.to[e] ?? [];
    if (!(rows[e] ?? []).includes(full) || to.includes(full)) continue;
    const comes = to.filter((g) => !(rows[e] ?? []).includes(g));
    if (comes.every((g) => left.has(g))) return e;
    found ??= e;
  }
  return found;
}

function same(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((g, i) => g === b[i]);
}

/** The smooth maximum of the normalised rank loads under the best split; 1 = even. */
export function smoothWorst(problem: Problem, layer: number, rows: Rows): number {
  const demand = layerDemand(problem, layer);
  const all = sum(demand);
  const speeds = sum(problem.speed);
  if (all <= 0 || speeds <= 0) return 1;
  const { load } = splitLayer({ demand, hosts: rows, speed: problem.speed }, splitSweeps);
  let total = 0;
  for (let g = 0; g < problem.G; g++) {
    const speed = problem.speed[g] as number;
    if (speed > 0) total += raise(((load[g] as number) / speed) * (speeds / all));
  }
  return root(total);
}
