// Fewer rows on the wire: replicas in free memory where tokens choose an expert. What a row costs is in DECISIONS.md 11. Pure.
import { sum } from "../../../runtime/placement/imbalance.ts";
import { keepsFloor } from "../expert-replicas.ts";
import { evenEnoughOf, expertReplicaKey } from "../policy.ts";
import { type Hosts, layerDemand, type Problem } from "../problem.ts";
import { rowsPerCount, sourceRows, wirePrice } from "../sources.ts";
import { type Change, changeOf, Ledger } from "./ledger.ts";
import { worstOf } from "./within-budget.ts";

/** The least decrease of max/mean, or what rows on the wire cost in its place, that a replica is worth where the input names none. */
const gainPerMove = 1e-3;
/** A replica gives way to one that keeps so many times the rows. */
const evictFactor = 2;
const evictionsMax = 64;
/** The part of a rank's memory that replicas fill; the rest is for moves that make layers even. */
const fillMost = 0.9;
/** A replica in another's place saves so many deviations of what it counts; the tokens of a conversation are alike, so chance is wider. */
const sigmas = 4;

export interface Nearer {
  readonly hosts: Hosts;
  readonly moves: number;
  /** Mean of the layers, as a part of their rows. */
  readonly saved: number;
}

interface Walk {
  readonly problem: Problem;
  readonly hosts: Hosts;
  readonly ledger: Ledger;
  /** Rows of a layer below which a replica is not worth its transfer, [layers]. */
  readonly least: readonly number[];
  readonly totals: readonly number[];
}

/** With the replicas that keep most rows at home, as far as the input tells whose tokens choose an expert. */
export function nearer(problem: Problem, from: Hosts): Nearer {
  if (problem.sources === undefined || problem.input.split !== "weighted") return { hosts: from, moves: 0, saved: 0 };
  return withReplicas(problem, from);
}

/** A layer may become so much less even when a replica goes. */
const thinnerBy = 0.005;

/**
 * Layers above `enter` without replicas that only keep rows at home, so that a search for evenness has their memory; `nearer` takes back
 * those that still pay.
 */
export function thinned(problem: Problem, hosts: Hosts, enter: number): Hosts {
  const { input, ranks } = problem;
  return hosts.map((layer, l) => {
    let left = layer;
    const worst = worstOf(problem, l, layer);
    if (worst <= enter) return layer;
    const most = worst + thinnerBy;
    for (const [expert, row] of layer.entries()) {
      for (const rank of row.slice(1).reverse()) {
        if (input.recent?.added.has(expertReplicaKey(input, l, expert, ranks[rank]?.rank ?? rank))) continue;
        const fewer = (left[expert] as number[]).filter((g) => g !== rank);
        const next = left.with(expert, fewer);
        if (keepsFloor(problem, left[expert] as number[], fewer) && worstOf(problem, l, next) <= most) left = next;
      }
    }
    return left;
  });
}

/** Counts what the hosts cost already, from those that the ranks have now. */
function walkFrom(problem: Problem, hosts: Hosts): Walk {
  const ledger = new Ledger(problem, problem.current ?? hosts);
  for (const [l, layer] of hosts.entries()) ledger.take(changeOf(problem, l, problem.current?.[l] ?? layer, layer));
  const totals = hosts.map((_, l) => sum(layerDemand(problem, l)));
  const least = totals.map((rows) => (rows * (problem.input.gainPerMove ?? gainPerMove)) / wirePrice);
  return { problem, hosts: hosts.map((layer) => layer.slice()), ledger, least, totals };
}

interface Wish {
  readonly layer: number;
  readonly expert: number;
  readonly rank: number;
  /** Rows of the rank's own tokens, as a part of the layer's. */
  readonly share: number;
}

/** Adds replicas, those first that keep most rows of their layer at home for a byte, as far as memory and budget go. */
function withReplicas(problem: Problem, from: Hosts): Nearer {
  const walk = walkFrom(problem, from);
  let [moves, saved, evictions] = [0, 0, 0];
  for (const wish of wishesOf(walk)) {
    const { layer, expert, rank } = wish;
    if (walk.ledger.movesLeft < 1 && !problem.current?.[layer]?.[expert]?.includes(rank)) continue;
    const rows: Rows = [[expert, [...(walk.hosts[layer]?.[expert] ?? []), rank]]];
    let victim: Wish | undefined;
    if (!take(walk, layer, rows, fillMost)) {
      victim = evictions++ < evictionsMax ? victimFor(walk, wish) : undefined;
      if (victim === undefined || !takeInstead(walk, victim, wish)) continue;
    }
    moves++;
    saved += wish.share - (victim?.share ?? 0);
  }
  return { hosts: walk.hosts, moves, saved: saved / Math.max(1, problem.L) };
}

/** The replica on the wish's rank that keeps least rows there, if those are few beside the wish's and its layer stays even without it. */
function victimFor(walk: Walk, wish: Wish): Wish | undefined {
  const { problem, hosts, totals } = walk;
  const partOf = (layer: number, rows: number): number => rows / Math.max(1, totals[layer] as number);
  const varianceOf = ({ layer, expert, share }: Wish): number => share * partOf(layer, rowsPerCount(problem, layer, expert));
  const variance = varianceOf(wish);
  let found: Wish | undefined;
  for (const [layer, experts] of hosts.entries()) {
    for (const [expert, row] of experts.entries()) {
      if (!mayGo(walk, wish, layer, expert)) continue;
      const share = partOf(layer, sourceRows(problem, layer, expert)[wish.rank] as number);
      if (share >= (found?.share ?? wish.share / evictFactor)) continue;
      const victim = { layer, expert, rank: wish.rank, share };
      if (wish.share - share < sigmas * Math.sqrt(varianceOf(victim) + variance)) continue;
      const left = row.filter((g) => g !== wish.rank);
      if (keepsFloor(problem, row, left) && staysEven(problem, layer, experts, experts.with(expert, left))) found = victim;
    }
  }
  return found;
}

/** Whether it is a replica on the wish's rank, as large as the wish and not new. */
function mayGo({ problem: { input, ranks, E }, hosts }: Walk, wish: Wish, layer: number, expert: number): boolean {
  const row = hosts[layer]?.[expert] ?? [];
  if (row.length < 2 || !row.includes(wish.rank)) return false;
  const { residentBytes } = input.shape;
  if ((residentBytes[layer * E + expert] as number) < (residentBytes[wish.layer * E + wish.expert] as number)) return false;
  return !input.recent?.added.has(expertReplicaKey(input, layer, expert, ranks[wish.rank]?.rank ?? wish.rank));
}

function staysEven(problem: Problem, layer: number, from: Hosts[number], to: Hosts[number]): boolean {
  return worstOf(problem, layer, to) <= Math.max(worstOf(problem, layer, from), evenEnoughOf(problem.input));
}

function takeInstead(walk: Walk, victim: Wish, { layer, expert, rank }: Wish): boolean {
  const was = walk.hosts[victim.layer]?.[victim.expert] ?? [];
  const dropped: Rows = [[victim.expert, was.filter((g) => g !== rank)]];
  const drop = changeBy(walk, victim.layer, dropped);
  walk.ledger.take(drop);
  put(walk, victim.layer, dropped);
  if (take(walk, layer, [[expert, [...(walk.hosts[layer]?.[expert] ?? []), rank]]])) return true;
  walk.ledger.take(drop, -1);
  put(walk, victim.layer, [[victim.expert, was]]);
  return false;
}

function wishesOf({ problem, hosts, least, totals }: Walk): Wish[] {
  const { input, slotCap, G, speed, E } = problem;
  const wishes: (Wish & { readonly value: number })[] = [];
  const wished = (layer: number, expert: number, slots: Int32Array): void => {
    const row = hosts[layer]?.[expert] ?? [];
    const source = sourceRows(problem, layer, expert);
    for (let rank = 0; rank < G; rank++) {
      const rows = source[rank] as number;
      if (rows === 0 || rows < (least[layer] as number) || row.length === 0 || row.includes(rank)) continue;
      if ((slots[rank] as number) >= slotCap || (speed[rank] as number) <= 0) continue;
      if (input.recent?.dropped.has(expertReplicaKey(input, layer, expert, problem.ranks[rank]?.rank ?? rank))) continue;
      const share = rows / (totals[layer] as number);
      wishes.push({ layer, expert, rank, share, value: share / Math.max(1, input.shape.residentBytes[layer * E + expert] as number) });
    }
  };
  for (const [layer, experts] of hosts.entries()) {
    const slots = slotsOf(experts, G);
    for (const expert of experts.keys()) wished(layer, expert, slots);
  }
  return wishes.sort((a, b) => b.value - a.value || a.layer - b.layer || a.expert - b.expert || a.rank - b.rank);
}

function slotsOf(experts: Hosts[number], ranks: number): Int32Array {
  const slots = new Int32Array(ranks);
  for (const row of experts) for (const g of row) slots[g] = (slots[g] as number) + 1;
  return slots;
}

type Rows = readonly (readonly [expert: number, row: number[]])[];

function take(walk: Walk, layer: number, rows: Rows, fill = 1): boolean {
  const change = changeBy(walk, layer, rows);
  if (!walk.ledger.fits(change, fill)) return false;
  walk.ledger.take(change);
  put(walk, layer, rows);
  return true;
}

/** What is there now costs no transfer, whether or not the search had dropped it. */
function changeBy({ problem, hosts }: Walk, layer: number, rows: Rows): Change {
  const from = hosts[layer] as number[][];
  const now = problem.current?.[layer] ?? from;
  const to: number[][] = [];
  const before: number[][] = [];
  for (const [expert, row] of rows) [to[expert], before[expert]] = [row, from[expert] as number[]];
  const [was, is] = [before, to].map((each) => changeOf(problem, layer, now, each)) as [Change, Change];
  const arrivals = is.arrivals.map((count, g) => count - (was.arrivals[g] as number));
  return { ...changeOf(problem, layer, from, to), moves: is.moves - was.moves, stored: is.stored - was.stored, arrivals };
}

function put({ hosts }: Walk, layer: number, rows: Rows): void {
  const next = (hosts[layer] as number[][]).slice();
  for (const [expert, row] of rows) next[expert] = row;
  hosts[layer] = next;
}
