// Fewer rows on the wire: replicas in free memory where tokens choose an expert. What a row costs is in DECISIONS.md 11. Pure.
import { sum } from "../../../runtime/placement/imbalance.ts";
import { keepsFloor } from "../expert-replicas.ts";
import { evenEnoughOf, expertReplicaKey } from "../policy.ts";
import { type Hosts, layerDemand, type Problem } from "../problem.ts";
import { sourceRows, wirePrice } from "../sources.ts";
import { type Change, changeOf, Ledger } from "./ledger.ts";
import { worstOf } from "./within-budget.ts";

/** The least decrease of max/mean, or what rows on the wire cost in its place, that a replica is worth where the input names none. */
const gainPerMove = 1e-3;
/** A replica gives way to one that keeps so many times the rows. */
const evictFactor = 2;
const evictionsMax = 64;
/** The part of a rank's memory that replicas fill; the rest is for moves that make layers even. */
const fillMost = 0.9;

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

/** Without replicas that only keep rows at home, so that a search for evenness has their memory; `nearer` takes back those that still pay. */
export function thinned(problem: Problem, hosts: Hosts): Hosts {
  const { input, ranks } = problem;
  return hosts.map((layer, l) => {
    let left = layer;
    const most = worstOf(problem, l, layer) + thinnerBy;
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
  const walk = walkFrom({ ...problem, capacity: problem.capacity.map((bytes) => fillMost * bytes) }, from);
  let [moves, saved, evictions] = [0, 0, 0];
  for (const wish of wishesOf(walk)) {
    if (walk.ledger.movesLeft < 1) break;
    const { layer, expert, rank } = wish;
    const rows: Rows = [[expert, [...(walk.hosts[layer]?.[expert] ?? []), rank]]];
    let victim: Wish | undefined;
    if (!take(walk, layer, rows)) {
      victim = evictions++ < evictionsMax ? victimFor(walk, wish) : undefined;
      if (victim === undefined || !takeInstead(walk, victim, wish)) continue;
    }
    moves++;
    saved += wish.share - (victim?.share ?? 0);
  }
  return { hosts: walk.hosts, moves, saved: saved / Math.max(1, problem.L) };
}

/** The replica on the wish's rank that keeps least rows there, if those are few beside the wish's and its layer stays even without it. */
function victimFor({ problem, hosts, totals }: Walk, wish: Wish): Wish | undefined {
  const { input, E } = problem;
  const bytes = (layer: number, expert: number): number => input.shape.residentBytes[layer * E + expert] as number;
  const known = problem.ranks[wish.rank]?.rank ?? wish.rank;
  let found: Wish | undefined;
  for (const [layer, experts] of hosts.entries()) {
    for (const [expert, row] of experts.entries()) {
      if (row.length < 2 || !row.includes(wish.rank) || bytes(layer, expert) < bytes(wish.layer, wish.expert)) continue;
      if (input.recent?.added.has(expertReplicaKey(input, layer, expert, known))) continue;
      const share = (sourceRows(problem, layer, expert)[wish.rank] as number) / Math.max(1, totals[layer] as number);
      if (share >= (found?.share ?? wish.share / evictFactor)) continue;
      const left = row.filter((g) => g !== wish.rank);
      const stays = experts.map((each, e) => (e === expert ? left : each));
      if (
        !keepsFloor(problem, row, left) ||
        worstOf(problem, layer, stays) > Math.max(worstOf(problem, layer, experts), evenEnoughOf(input))
      )
        continue;
      found = { layer, expert, rank: wish.rank, share };
    }
  }
  return found;
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

function take(walk: Walk, layer: number, rows: Rows): boolean {
  const change = changeBy(walk, layer, rows);
  if (!walk.ledger.fits(change)) return false;
  walk.ledger.take(change);
  put(walk, layer, rows);
  return true;
}

function changeBy({ problem, hosts }: Walk, layer: number, rows: Rows): Change {
  const from = hosts[layer] as number[][];
  const to = from.slice();
  for (const [expert, row] of rows) to[expert] = row;
  return changeOf(problem, layer, from, to);
}

function put({ hosts }: Walk, layer: number, rows: Rows): void {
  const next = (hosts[layer] as number[][]).slice();
  for (const [expert, row] of rows) next[expert] = row;
  hosts[layer] = next;
}
