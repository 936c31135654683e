// Plans that keep every expert hosted: the first plan, the plan after a loss, and the plan that empties draining ranks.
import { AppError } from "../../crds/common.ts";
import type { LayerPlan } from "../../crds/plan.ts";
import { sameLayer } from "../../runtime/placement/diff.ts";
import { checkMemory } from "./feasibility.ts";
import type { PlanInput, PlanOutput } from "./policy.ts";
import { bytesByRank, type Hosts, layerDemand, type Problem, stagingBytes, toLayer, toLayers, toProblem, usedBytes } from "./problem.ts";

/** Epoch 1: the primary of expert e in layer l is rank (e + l) mod N, unless it is full; no other expert replicas. */
export function firstPlan(input: PlanInput): LayerPlan[] {
  const problem = toProblem({ ...input, current: undefined });
  const fits = checkMemory(input.shape, input.ranks);
  if (!fits.ok) throw new AppError(fits.message, { code: fits.reason, operation: "making the first plan" });
  const hosts = roundRobin(problem) ?? bestFit(problem);
  return toLayers(problem, hosts);
}

export function primariesStay(input: PlanInput, why: string): PlanOutput {
  return { layers: input.current ?? firstPlan(input), reason: `${why}: primaries stay` };
}

function roundRobin(problem: Problem): Hosts | undefined {
  const used = new Float64Array(problem.G);
  const hosts: Hosts = [];
  for (let l = 0; l < problem.L; l++) {
    const caps = new Array<number>(problem.G).fill(problem.slotCap);
    const layer: number[][] = [];
    for (let e = 0; e < (problem.experts[l] as number); e++) {
      const bytes = problem.input.shape.residentBytes[l * problem.E + e] as number;
      const fits = (g: number): boolean => (caps[g] as number) > 0 && (used[g] as number) + bytes <= (problem.capacity[g] as number) + 1e-6;
      const primary = (e + l) % problem.G;
      const g = fits(primary) ? primary : mostFree(problem, used, fits);
      if (g === undefined) return undefined;
      used[g] = (used[g] as number) + bytes;
      caps[g] = (caps[g] as number) - 1;
      layer.push([g]);
    }
    hosts.push(layer);
  }
  return hosts;
}

function bestFit(problem: Problem): Hosts {
  const used = new Float64Array(problem.G);
  const bytes = problem.input.shape.residentBytes;
  const hosts: Hosts = problem.experts.map((count) => Array.from({ length: count }, () => []));
  const exists = (i: number): boolean => i % problem.E < (problem.experts[Math.floor(i / problem.E)] as number);
  const cells = Array.from(bytes, (_, i) => i).filter(exists);
  const order = cells.sort((a, b) => (bytes[b] as number) - (bytes[a] as number) || a - b);
  for (const i of order) {
    const g = mostFree(problem, used, () => true) ?? 0;
    used[g] = (used[g] as number) + (bytes[i] as number);
    hosts[Math.floor(i / problem.E)]?.[i % problem.E]?.push(g);
  }
  return hosts;
}

function mostFree(problem: Problem, used: Float64Array, fits: (g: number) => boolean): number | undefined {
  let best: number | undefined;
  for (let g = 0; g < problem.G; g++) {
    if (!fits(g)) continue;
    if (
      best === undefined ||
      (problem.capacity[g] as number) - (used[g] as number) > (problem.capacity[best] as number) - (used[best] as number)
    )
      best = g;
  }
  return best;
}

interface Orphan {
  readonly layer: number;
  readonly expert: number;
}

export interface Repaired {
  readonly layers: readonly LayerPlan[];
  /** Experts for which no rank has capacity. They keep their lost primary and are loaded on demand. */
  readonly unhosted: readonly Orphan[];
  /** Experts that fit only once this plan is done. They keep their lost primary until then. */
  readonly later: readonly Orphan[];
  readonly changed: boolean;
}

/**
 * Removes hosts on dead and draining ranks. Experts without a host get a new primary on the least loaded rank with capacity, the
 * hottest first; redundant replicas are evicted if needed. With `carriedOut`, a layer gets no more than fits beside its old replicas.
 */
export function repairPlan(input: PlanInput, current: readonly LayerPlan[], { carriedOut = false } = {}): Repaired {
  if (isSound(input, current)) return { layers: current, unhosted: [], later: [], changed: false };
  const problem = toProblem({ ...input, current });
  const hosts = problem.current as Hosts;
  const orphans: { layer: number; expert: number; demand: number }[] = [];
  const touched = new Set<number>();
  hosts.forEach((layer, l) => {
    layer.forEach((row, e) => {
      if (row.length !== (current[l]?.hosts[e]?.length ?? 0)) touched.add(l);
      if (row.length === 0) orphans.push({ layer: l, expert: e, demand: layerDemand(problem, l)[e] as number });
    });
  });
  orphans.sort((a, b) => b.demand - a.demand || a.layer - b.layer || a.expert - b.expert);
  const repair = new Repair(problem, hosts, carriedOut);
  repair.relieve();
  if (input.ranks.some(({ memoryBytes }) => memoryBytes !== undefined)) repair.shed(input.budget.maxMoves);
  const left = repair.adoptAll(orphans);
  const unhosted: Orphan[] = [];
  const later: Orphan[] = [];
  for (const { layer, expert } of left) (repair.fits(layer, expert) ? later : unhosted).push({ layer, expert });
  const layers = current.map((layer, l) => {
    if (!touched.has(l) && !repair.evicted.has(l)) return layer;
    const next = toLayer(problem, l, hosts[l] as number[][]);
    // A layer that only changes weights back and forth stays as it is.
    return sameLayer({ ...next, weights: layer.weights }, layer) ? layer : next;
  });
  return {
    layers,
    unhosted,
    later,
    changed: layers.some((layer, l) => layer !== current[l]),
  };
}

/** True if every host is active and every rank within its bytes. It runs before each plan, so it builds no Problem. */
function isSound(input: PlanInput, current: readonly LayerPlan[]): boolean {
  const staging = stagingBytes(input.shape);
  const capacity = new Map<number, number>();
  for (const { rank, state, budgetBytes } of input.ranks) if (state === "active") capacity.set(rank, budgetBytes - staging);
  for (const [rank, bytes] of bytesByRank(input.shape, current)) if (!(bytes <= (capacity.get(rank) ?? -1) + 1e-6)) return false;
  return current.every((layer) => layer.hosts.every((hosts) => hosts.length > 0));
}

export function orphans(input: PlanInput, layers: readonly LayerPlan[]): Orphan[] {
  const active = new Set(input.ranks.filter((rank) => rank.state === "active").map((rank) => rank.rank));
  return layers.flatMap((layer, l) =>
    layer.hosts.flatMap((hosts, expert) => (hosts.some((rank) => active.has(rank)) ? [] : [{ layer: l, expert }])),
  );
}

const anywhere = (): boolean => true;

class Repair {
  readonly evicted = new Set<number>();
  readonly #problem: Problem;
  readonly #hosts: Hosts;
  readonly #used: Float64Array;
  readonly #before: Float64Array;
  readonly #incoming: Float64Array[];
  readonly #staging: number;
  readonly #carriedOut: boolean;
  readonly #load: Float64Array[];
  readonly #count: Int32Array[];
  readonly #expertReplicas: RedundantExpertReplicas;
  /** Layers and sizes for which eviction failed, until one more replica has gone. */
  readonly #inVain = new Set<string>();

  constructor(problem: Problem, hosts: Hosts, carriedOut: boolean) {
    this.#problem = problem;
    this.#carriedOut = carriedOut;
    this.#hosts = hosts;
    this.#used = usedBytes(problem, hosts);
    this.#before = this.#used.slice();
    this.#incoming = hosts.map(() => new Float64Array(problem.G));
    this.#staging = stagingBytes(problem.input.shape);
    this.#count = hosts.map((layer) => {
      const count = new Int32Array(problem.G);
      for (const row of layer) for (const g of row) count[g] = (count[g] as number) + 1;
      return count;
    });
    this.#expertReplicas = new RedundantExpertReplicas(hosts, (l) => layerDemand(problem, l));
    this.#load = hosts.map((layer, l) => {
      const load = new Float64Array(problem.G);
      const demand = layerDemand(problem, l);
      layer.forEach((row, e) => {
        for (const g of row) load[g] = (load[g] as number) + (demand[e] as number) / row.length;
      });
      return load;
    });
  }

  /**
   * Evicts redundant expert replicas, the coldest first, from ranks above their steady budget (after an interrupted plan).
   * Later plans empty the staging slot.
   */
  relieve(): void {
    for (let g = 0; g < this.#problem.G; g++) {
      while ((this.#used[g] as number) > (this.#problem.capacity[g] as number) + 1e-6 && this.#dropColdest(g)) {}
    }
  }

  /** Moves the coldest experts from ranks above their budget: what is served can exceed it once ranks come back. */
  shed(movesMax: number): void {
    const isOver = (g: number): boolean => (this.#used[g] as number) > (this.#problem.capacity[g] as number) + 1e-6;
    const over = new Set([...this.#used.keys()].filter(isOver));
    if (over.size === 0) return;
    const cells = this.#hosts.flatMap((layer, l) =>
      layer.flatMap((row, expert) => {
        const g = row[0] as number;
        const demand = layerDemand(this.#problem, l)[expert] as number;
        return row.length === 1 && over.has(g) && this.#size(l, expert) > 0 ? [{ layer: l, expert, g, demand }] : [];
      }),
    );
    let moves = 0;
    for (const { layer, expert, g, demand } of cells.sort((a, b) => a.demand - b.demand)) {
      if (moves >= movesMax || !isOver(g)) continue;
      const row = this.#hosts[layer]?.[expert] as number[];
      this.#leaves(layer, expert, g);
      const load = this.#load[layer] as Float64Array;
      load[g] = (load[g] as number) - demand;
      if (this.#adopt(layer, expert)) {
        moves++;
        this.evicted.add(layer);
        continue;
      }
      row.push(g);
      load[g] = (load[g] as number) + demand;
      this.#used[g] = (this.#used[g] as number) + this.#size(layer, expert);
      (this.#count[layer] as Int32Array)[g] = ((this.#count[layer] as Int32Array)[g] as number) + 1;
    }
  }

  #dropColdest(rank: number): boolean {
    const found = this.#expertReplicas.find(({ layer, expert }, row) =>
      row.includes(rank) && this.#size(layer, expert) > 0 ? rank : undefined,
    );
    if (!found) return false;
    this.#drop(found.layer, found.expert, rank);
    return true;
  }

  #size(layer: number, expert: number): number {
    return this.#problem.input.shape.residentBytes[layer * this.#problem.E + expert] as number;
  }

  #drop(layer: number, expert: number, rank: number): void {
    this.#leaves(layer, expert, rank);
    this.#expertReplicas.dropped(layer, expert);
    this.#inVain.clear();
    this.evicted.add(layer);
  }

  #leaves(layer: number, expert: number, rank: number): void {
    const row = this.#hosts[layer]?.[expert] as number[];
    row.splice(row.indexOf(rank), 1);
    this.#used[rank] = (this.#used[rank] as number) - this.#size(layer, expert);
    const count = this.#count[layer] as Int32Array;
    count[rank] = (count[rank] as number) - 1;
  }

  /**
   * Adopts in this order, and again as long as one expert found a primary, since its evictions may have made space for
   * others.
   */
  adoptAll(orphans: readonly Orphan[]): readonly Orphan[] {
    let open = orphans;
    for (let before = open.length + 1; open.length > 0 && open.length < before; ) {
      before = open.length;
      open = open.filter(({ layer, expert }) => !this.#adopt(layer, expert));
    }
    return open;
  }

  #adopt(layer: number, expert: number): boolean {
    const bytes = this.#size(layer, expert);
    const arrives = (g: number): boolean => {
      if (!this.#carriedOut) return true;
      const onItsWay = (this.#before[g] as number) + (this.#incoming[layer]?.[g] as number) + bytes;
      return onItsWay <= (this.#problem.capacity[g] as number) + this.#staging + 1e-6;
    };
    const g = this.#coldest(layer, bytes, arrives) ?? this.#evict(layer, bytes, arrives);
    if (g === undefined) return false;
    const incoming = this.#incoming[layer] as Float64Array;
    incoming[g] = (incoming[g] as number) + bytes;
    this.#hosts[layer]?.[expert]?.push(g);
    this.#used[g] = (this.#used[g] as number) + bytes;
    const count = this.#count[layer] as Int32Array;
    count[g] = (count[g] as number) + 1;
    const load = this.#load[layer] as Float64Array;
    load[g] = (load[g] as number) + (layerDemand(this.#problem, layer)[expert] as number);
    return true;
  }

  fits(layer: number, expert: number): boolean {
    const bytes = this.#size(layer, expert);
    return this.#coldest(layer, bytes, anywhere) !== undefined || this.#coldestExpertReplica(layer, bytes, anywhere) !== undefined;
  }

  #coldest(layer: number, bytes: number, arrives: (rank: number) => boolean): number | undefined {
    const problem = this.#problem;
    const used = this.#used;
    const load = this.#load[layer] as Float64Array;
    let best: number | undefined;
    let least = 0;
    for (let g = 0; g < problem.G; g++) {
      const speed = problem.speed[g] as number;
      if (speed <= 0 || (used[g] as number) + bytes > (problem.capacity[g] as number) + 1e-6) continue;
      if ((this.#count[layer]?.[g] as number) >= problem.slotCap || !arrives(g)) continue;
      const level = (load[g] as number) / speed;
      const better = best === undefined || level < least || (level === least && (used[g] as number) < (used[best] as number));
      if (!better) continue;
      best = g;
      least = level;
    }
    return best;
  }

  #evict(wanted: number, bytes: number, arrives: (rank: number) => boolean): number | undefined {
    const found = this.#coldestExpertReplica(wanted, bytes, arrives);
    if (!found) return undefined;
    this.#drop(found.layer, found.expert, found.rank);
    return found.rank;
  }

  #coldestExpertReplica(wanted: number, bytes: number, arrives: (rank: number) => boolean) {
    const asked = `${wanted} ${bytes} ${arrives === anywhere}`;
    if (this.#inVain.has(asked)) return undefined;
    const found = this.#expertReplicas.find((copied, row) => row.find((g) => arrives(g) && this.#takes(g, wanted, bytes, copied)));
    if (!found) this.#inVain.add(asked);
    return found;
  }

  #takes(rank: number, layer: number, bytes: number, leaves: { readonly layer: number; readonly expert: number }): boolean {
    const problem = this.#problem;
    if ((problem.speed[rank] as number) <= 0) return false;
    if ((this.#count[layer]?.[rank] as number) - (leaves.layer === layer ? 1 : 0) >= problem.slotCap) return false;
    const free = (problem.capacity[rank] as number) - (this.#used[rank] as number) + this.#size(leaves.layer, leaves.expert);
    return free + 1e-6 >= bytes;
  }
}

interface Copied {
  readonly layer: number;
  readonly expert: number;
  readonly rows: number;
}

class RedundantExpertReplicas {
  readonly #hosts: Hosts;
  readonly #demand: (layer: number) => ArrayLike<number>;
  readonly #coldestFirst: Copied[];

  constructor(hosts: Hosts, demand: (layer: number) => ArrayLike<number>) {
    this.#hosts = hosts;
    this.#demand = demand;
    this.#coldestFirst = hosts.flatMap((layer, l) => layer.flatMap((row, expert) => (row.length > 1 ? [this.#copied(l, expert)] : [])));
    this.#coldestFirst.sort(byRows);
  }

  /** The coldest expert for which `rankOf` names a host that may drop its replica. */
  find(rankOf: (copied: Copied, hosts: readonly number[]) => number | undefined): (Copied & { readonly rank: number }) | undefined {
    for (const copied of this.#coldestFirst) {
      const rank = rankOf(copied, this.#hosts[copied.layer]?.[copied.expert] ?? []);
      if (rank !== undefined) return Object.assign({ rank }, copied);
    }
    return undefined;
  }

  /** Call it when a host has dropped its replica. */
  dropped(layer: number, expert: number): void {
    const list = this.#coldestFirst;
    const at = list.findIndex((copied) => copied.layer === layer && copied.expert === expert);
    if (at >= 0) list.splice(at, 1);
    if ((this.#hosts[layer]?.[expert]?.length ?? 0) < 2) return;
    const copied = this.#copied(layer, expert);
    const next = list.findIndex((other) => byRows(other, copied) > 0);
    list.splice(next < 0 ? list.length : next, 0, copied);
  }

  #copied(layer: number, expert: number): Copied {
    return { layer, expert, rows: (this.#demand(layer)[expert] as number) / (this.#hosts[layer]?.[expert]?.length ?? 1) };
  }
}

const byRows = (a: Copied, b: Copied): number => a.rows - b.rows || a.layer - b.layer || a.expert - b.expert;
