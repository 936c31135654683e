// The search for small models (experts x ranks <= 128): seeded annealing of one layer's hosts with the exact split as its price. Greedy
// steps stop a few percent short there.
import { bound, fastestOf, imbalance, sum } from "../../../../runtime/placement/imbalance.ts";
import { splitLayer } from "../../../../runtime/placement/split.ts";
import { keepsFloor } from "../../expert-replicas.ts";
import { expertReplicaKey } from "../../policy.ts";
import { type Hosts, layerDemand, type Problem, usedBytes } from "../../problem.ts";
import { type Random, seeded } from "../../random.ts";
import { type Change, changeOf, Spent } from "../ledger.ts";
import type { ImproveOptions } from "./improve.ts";

export const smallCellsMax = 128;
/** Trials per layer; the search ends early at the bound. */
const trials: Record<"fast" | "quality", number> = { fast: 1500, quality: 6000 };
const restarts: Record<"fast" | "quality", number> = { fast: 1, quality: 4 };
const replanPart = 0.25;
const hot = 0.06;
const coldest = 0.0005;
const nearBound = 1.002;
const splitSweepsInSearch = 6;

/** Searches layers above the target, the worst first, within the budget that `start` leaves. */
export function polishSmall(problem: Problem, start: Hosts, options: ImproveOptions): Hosts {
  const hosts = start.slice();
  const used = usedBytes(problem, hosts);
  const free0 = problem.current
    ? usedBytes(problem, problem.current).map((bytes, g) => Math.max(0, (problem.capacity[g] as number) - bytes))
    : problem.capacity;
  const spent = new Spent(problem.G);
  const changes = hosts.map((layer, l) => changeOf(problem, l, problem.current?.[l] ?? layer, layer));
  for (const change of changes) spent.add(change);
  const order = hosts.map((layer, l) => ({ l, worst: worstOf(problem, l, layer) })).sort((a, b) => b.worst - a.worst || a.l - b.l);
  for (const { l, worst } of order) {
    const layer = hosts[l] as number[][];
    const target = Math.max(options.leave, nearBound * layerBound(problem, l, layer, used));
    if (worst <= Math.max(target, options.enter, 1 + 2 * (problem.input.noise?.[l] ?? 0))) continue;
    const change = changes[l] as Change;
    spent.add(change, -1);
    if (spent.movesLeft(problem.input.budget) < 1) {
      spent.add(change);
      continue;
    }
    const search = new SmallSearch({ problem, layer: l, start: layer, used, free0, others: spent, target, theta: options.theta });
    const found = search.run();
    spent.add(found ? changeOf(problem, l, problem.current?.[l] ?? found, found) : change);
    if (!found) continue;
    exchangeBytes(problem, l, { from: layer, to: found }, used);
    hosts[l] = found;
  }
  return hosts;
}

function worstOf(problem: Problem, layer: number, hosts: readonly (readonly number[])[]): number {
  const { load } = splitLayer({ demand: layerDemand(problem, layer), hosts, speed: problem.speed }, splitSweepsInSearch);
  return imbalance(load, problem.speed);
}

function layerBound(problem: Problem, layer: number, hosts: Hosts[number], used: Float64Array): number {
  const held = hosts.reduce((n, row) => n + row.length, 0);
  const unit = sum(problem.input.shape.residentBytes) / Math.max(1, problem.total);
  const spare = sum(
    problem.capacity.map((bytes, g) => (unit > 0 ? Math.floor(Math.max(0, bytes - (used[g] as number)) / unit) : hosts.length)),
  );
  const slots = problem.slotCap === Number.POSITIVE_INFINITY ? held + spare : problem.slotCap * problem.G;
  return bound(layerDemand(problem, layer), problem.G, Math.min(slots, hosts.length * problem.G), fastestOf(problem.speed));
}

function exchangeBytes(problem: Problem, layer: number, { from, to }: Record<"from" | "to", Hosts[number]>, used: Float64Array): void {
  const bytes = (e: number): number => problem.input.shape.residentBytes[layer * problem.E + e] as number;
  for (const [e, row] of from.entries()) for (const g of row) used[g] = (used[g] as number) - bytes(e);
  for (const [e, row] of to.entries()) for (const g of row) used[g] = (used[g] as number) + bytes(e);
}

function countNew(from: Hosts, to: Hosts): number {
  let count = 0;
  to.forEach((layer, l) => {
    layer.forEach((row, e) => {
      for (const g of row) if (!from[l]?.[e]?.includes(g)) count++;
    });
  });
  return count;
}

interface SmallOptions {
  readonly problem: Problem;
  readonly layer: number;
  readonly start: Hosts[number];
  readonly used: Float64Array;
  readonly free0: Float64Array;
  readonly others: Spent;
  readonly target: number;
  readonly theta: number;
}

class SmallSearch {
  readonly #o: SmallOptions;
  readonly #demand: Float64Array;
  readonly #old: Hosts[number] | undefined;
  readonly #random: Random;
  #freeBytes: Float64Array = new Float64Array(0);
  readonly #taken: Float64Array;

  constructor(options: SmallOptions) {
    this.#o = options;
    this.#demand = layerDemand(options.problem, options.layer);
    this.#old = options.problem.current?.[options.layer];
    this.#random = seeded((options.problem.input.seed ?? 1) * 1009 + options.layer);
    this.#taken = new Float64Array(options.problem.G);
  }

  run(): Hosts[number] | undefined {
    const { start } = this.#o;
    const { effort } = this.#o.problem.input;
    const first = this.#score(start);
    const starts = this.#old ? 1 : restarts[effort];
    const steps = Math.ceil(trials[effort] * (this.#old ? replanPart : 1));
    let best = start;
    let bestScore = first;
    for (let r = 0; r < starts && bestScore > this.#goal(best); r++) {
      const found = this.#anneal(r % 2 === 0 ? best : start, steps);
      if (found.score < bestScore) {
        best = found.hosts;
        bestScore = found.score;
      }
    }
    return bestScore < first - this.#o.theta ? best : undefined;
  }

  #goal(hosts: Hosts[number]): number {
    return this.#o.target + this.#price() * this.#newExpertReplicas(hosts);
  }

  #price(): number {
    return this.#old ? this.#o.theta : 1e-6;
  }

  #newExpertReplicas(hosts: Hosts[number]): number {
    return this.#old ? countNew([this.#old], [hosts]) : 0;
  }

  #score(hosts: Hosts[number]): number {
    const { problem } = this.#o;
    const { load } = splitLayer({ demand: this.#demand, hosts, speed: problem.speed }, splitSweepsInSearch);
    return Math.max(this.#o.target, imbalance(load, problem.speed)) + this.#price() * this.#newExpertReplicas(hosts);
  }

  #anneal(start: Hosts[number], steps: number): { hosts: Hosts[number]; score: number } {
    let hosts = start;
    let score = this.#score(hosts);
    let best = { hosts, score };
    this.#freeBytes = this.#freeBytesOf(hosts);
    const cooling = (coldest / hot) ** (1 / steps);
    let temperature = hot;
    for (let n = 0; n < steps; n++, temperature *= cooling) {
      const next = this.#neighbour(hosts);
      if (!next) continue;
      const value = this.#score(next);
      if (value > score && this.#random.next() >= Math.exp((score - value) / temperature)) continue;
      hosts = next;
      score = value;
      for (let g = 0; g < this.#taken.length; g++) this.#freeBytes[g] = (this.#freeBytes[g] as number) - (this.#taken[g] as number);
      if (score < best.score - 1e-9 && this.#feasible(hosts)) {
        best = { hosts, score };
        if (score <= this.#o.target + 1e-9) break;
      }
    }
    return best;
  }

  #neighbour(hosts: Hosts[number]): Hosts[number] | undefined {
    const { problem } = this.#o;
    const e = this.#random.below(hosts.length);
    const row = hosts[e] as number[];
    const g = this.#random.below(problem.G);
    const kind = this.#random.below(4);
    const at = this.#random.below(row.length);
    if (row.length === 0 && kind > 0) return undefined;
    if (kind === 0) return row.includes(g) ? undefined : this.#checked(hosts, [[e, [...row, g]]]);
    if (kind === 1)
      return row.length > Math.max(1, problem.input.minExpertReplicas)
        ? this.#checked(hosts, [[e, row.filter((_, i) => i !== at)]])
        : undefined;
    if (row.includes(g)) return undefined;
    const moved = row.map((rank, i) => (i === at ? g : rank));
    if (kind === 2) return this.#checked(hosts, [[e, moved]]);
    const from = row[at] as number;
    const others = hosts.map((_, f) => f).filter((f) => f !== e && hosts[f]?.includes(g) && !hosts[f]?.includes(from));
    if (others.length === 0) return undefined;
    const f = others[this.#random.below(others.length)] as number;
    return this.#checked(hosts, [
      [e, moved],
      [f, (hosts[f] as number[]).map((rank) => (rank === g ? from : rank))],
    ]);
  }

  #checked(hosts: Hosts[number], changes: readonly (readonly [number, number[]])[]): Hosts[number] | undefined {
    const next = hosts.slice();
    for (const [e, row] of changes) {
      if (!keepsFloor(this.#o.problem, hosts[e] as number[], row)) return undefined;
      next[e] = row;
    }
    return this.#fits(next, changes) && this.#takes(hosts, changes) ? next : undefined;
  }

  #freeBytesOf(hosts: Hosts[number]): Float64Array {
    const { problem, layer, used, start } = this.#o;
    const left = used.slice();
    exchangeBytes(problem, layer, { from: start, to: hosts }, left);
    return left.map((bytes, g) => (problem.capacity[g] as number) - bytes);
  }

  /** True when every rank that gets more has the bytes; it saves pricing most neighbours of a full memory. */
  #takes(hosts: Hosts[number], changes: readonly (readonly [number, number[]])[]): boolean {
    const { problem, layer } = this.#o;
    this.#taken.fill(0);
    for (const [e, row] of changes) {
      const bytes = problem.input.shape.residentBytes[layer * problem.E + e] as number;
      for (const g of row) this.#taken[g] = (this.#taken[g] as number) + bytes;
      for (const g of hosts[e] as number[]) this.#taken[g] = (this.#taken[g] as number) - bytes;
    }
    return this.#taken.every((bytes, g) => bytes <= 1e-6 || bytes <= (this.#freeBytes[g] as number) + 1e-6);
  }

  #fits(next: Hosts[number], changes: readonly (readonly [number, number[]])[]): boolean {
    const { problem } = this.#o;
    for (const [, row] of changes) {
      for (const g of row) {
        if ((problem.speed[g] as number) <= 0) return false;
        if (problem.slotCap !== Number.POSITIVE_INFINITY && next.filter((hosts) => hosts.includes(g)).length > problem.slotCap)
          return false;
      }
    }
    return true;
  }

  /** The limits of the whole layer: bytes, receives, budget, dwell. They are checked for new bests only. */
  #feasible(hosts: Hosts[number]): boolean {
    const { problem, layer, used, free0 } = this.#o;
    const base = used.slice();
    exchangeBytes(problem, layer, { from: this.#o.start, to: hosts }, base);
    if (base.some((bytes, g) => bytes > (problem.capacity[g] as number) + 1e-6)) return false;
    if (!this.#old) return true;
    const change = changeOf(problem, layer, this.#old, hosts);
    const { recent, budget } = problem.input;
    if (!this.#o.others.allows(change, budget)) return false;
    for (let e = 0; e < hosts.length; e++) {
      const before = this.#old[e] as number[];
      const key = (g: number): number => expertReplicaKey(problem.input, layer, e, problem.ranks[g]?.rank ?? g);
      for (const g of hosts[e] as number[]) {
        if (before.includes(g)) continue;
        if (recent?.dropped.has(key(g))) return false;
      }
      if (before.some((g) => !(hosts[e] as number[]).includes(g) && recent?.added.has(key(g)))) return false;
    }
    return change.incoming.every((b, g) => b <= problem.staging + (free0[g] as number) + 1e-6);
  }
}
