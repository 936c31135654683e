// Ensures that every expert has at least `minExpertReplicas` replicas, on as many nodes. Without memory, a replica above the floor is
// dropped or moved: DECISIONS.md 8.
import type { LayerPlan } from "../../crds/plan.ts";
import type { PlanInput, RankSpec } from "./policy.ts";
import { type Hosts, layerDemand, type Problem, toLayers, toProblem, usedBytes } from "./problem.ts";

export interface Floored {
  readonly layers: readonly LayerPlan[];
  /** Expert replicas added, including those that the present placement has already. */
  readonly added: number;
  /** Experts that stay below the floor for lack of memory or budget. */
  readonly missing: number;
}

export function atRisk(ranks: readonly RankSpec[], layers: readonly LayerPlan[]): number {
  const nodes = new Map(ranks.filter((rank) => rank.state !== "dead").map((rank) => [rank.rank, `${rank.zone}/${rank.node}`]));
  let count = 0;
  for (const layer of layers) {
    for (const hosts of layer.hosts) {
      const first = nodes.get(hosts.find((rank) => nodes.has(rank)) ?? -1);
      if (!hosts.some((rank) => nodes.has(rank) && nodes.get(rank) !== first)) count++;
    }
  }
  return count;
}

export function belowFloor(input: PlanInput, layers: readonly LayerPlan[]): number {
  if (input.minExpertReplicas <= 1) return 0;
  const problem = toProblem({ ...input, current: layers });
  const floor = floorOf(problem);
  return (problem.current ?? []).reduce((n, layer) => n + layer.filter((row) => !meets(problem, floor, row)).length, 0);
}

/** True when an expert may move between these rank indexes without falling below the floor, or further below it. */
export function keepsFloor(problem: Problem, from: readonly number[], to: readonly number[]): boolean {
  const { minExpertReplicas } = problem.input;
  if (minExpertReplicas <= 1) return true;
  return (
    to.length >= Math.min(minExpertReplicas, from.length) && nodesOf(problem, to) >= Math.min(minExpertReplicas, nodesOf(problem, from))
  );
}

/**
 * `layers` with the floor restored, within the move budget that a step from `input.current` leaves, the hottest experts first. A
 * replica stays where it is now, else goes to a new node, and from the third on to a new zone, then rack.
 */
export function withFloor(input: PlanInput, layers: readonly LayerPlan[]): Floored {
  if (input.minExpertReplicas <= 1) return { layers, added: 0, missing: 0 };
  const keeper = new FloorKeeper(input, layers);
  const { added, missing } = keeper.fill();
  return { layers: keeper.changed(layers), added, missing };
}

/** A policy's plan with the floor restored; a layer where that is impossible stays as it is. */
export function keepFloor(input: PlanInput, layers: readonly LayerPlan[]): readonly LayerPlan[] {
  const { current } = input;
  if (input.minExpertReplicas <= 1) return layers;
  const floored = withFloor(input, layers).layers;
  if (!current) return floored;
  const before = toProblem(input);
  const after = toProblem({ ...input, current: floored });
  return floored.map((layer, l) => {
    const worse = before.current?.[l]?.some((row, e) => !keepsFloor(before, row, after.current?.[l]?.[e] ?? []));
    return worse ? (current[l] ?? layer) : layer;
  });
}

interface Floor {
  readonly expertReplicas: number;
  readonly nodes: number;
}

function floorOf(problem: Problem): Floor {
  const able = Array.from({ length: problem.G }, (_, g) => g).filter((g) => (problem.speed[g] as number) > 0);
  const { minExpertReplicas } = problem.input;
  return { expertReplicas: Math.min(minExpertReplicas, able.length), nodes: Math.min(minExpertReplicas, nodesOf(problem, able)) };
}

function meets(problem: Problem, floor: Floor, row: readonly number[]): boolean {
  return row.length >= floor.expertReplicas && nodesOf(problem, row) >= floor.nodes;
}

function nodesOf(problem: Problem, row: readonly number[]): number {
  return row.length < 2 ? row.length : new Set(row.map((g) => problem.node[g])).size;
}

function sameRack(a: RankSpec | undefined, b: RankSpec | undefined): boolean {
  return a?.rack === undefined || b?.rack === undefined || (a.rack === b.rack && a.zone === b.zone);
}

interface ExpertReplica {
  readonly layer: number;
  readonly expert: number;
  readonly rank: number;
}

/** The most experts per plan for which space is searched; each search visits all expert replicas. */
const waysMax = 64;

interface Left {
  moves: number;
  bytes: number;
  readonly onRank: Float64Array;
}

function leftOf({ G, E, input }: Problem, before: Hosts | undefined, hosts: Hosts): Left {
  const { budget, shape } = input;
  const left: Left = { moves: budget.maxMoves, bytes: budget.maxBytes, onRank: new Float64Array(G).fill(budget.maxMovesPerRank) };
  if (!before) return left;
  hosts.forEach((layer, l) => {
    layer.forEach((row, e) => {
      for (const g of row) if (!before[l]?.[e]?.includes(g)) pay(left, g, shape.storedBytes[l * E + e] as number);
    });
  });
  return left;
}

function affords(left: Left, g: number, bytes: number): boolean {
  return left.moves >= 1 && left.bytes >= bytes && (left.onRank[g] as number) >= 1;
}

function pay(left: Left, g: number, bytes: number): void {
  left.moves--;
  left.bytes -= bytes;
  left.onRank[g] = (left.onRank[g] as number) - 1;
}

class FloorKeeper {
  readonly #problem: Problem;
  readonly #floor: Floor;
  readonly #hosts: Hosts;
  readonly #before: Hosts | undefined;
  readonly #used: Float64Array;
  readonly #load: Float64Array[];
  readonly #count: Int32Array[];
  readonly #touched = new Set<number>();
  readonly #left: Left;
  readonly #smallest: number;
  #spare: ExpertReplica[] | undefined;
  #waysSought = 0;

  constructor(input: PlanInput, layers: readonly LayerPlan[]) {
    const problem = toProblem({ ...input, current: layers });
    const hosts = problem.current as Hosts;
    this.#problem = problem;
    this.#floor = floorOf(problem);
    this.#hosts = hosts;
    this.#before = toProblem(input).current;
    this.#used = usedBytes(problem, hosts);
    this.#load = hosts.map((layer, l) => {
      const load = new Float64Array(problem.G);
      for (const [e, row] of layer.entries())
        for (const g of row) load[g] = (load[g] as number) + (layerDemand(problem, l)[e] as number) / row.length;
      return load;
    });
    this.#count = hosts.map((layer) => {
      const count = new Int32Array(problem.G);
      for (const row of layer) for (const g of row) count[g] = (count[g] as number) + 1;
      return count;
    });
    this.#left = leftOf(problem, this.#before, hosts);
    this.#smallest = problem.input.shape.residentBytes.reduce((a, b) => Math.min(a, b), Number.POSITIVE_INFINITY);
  }

  fill(): { readonly added: number; readonly missing: number } {
    const problem = this.#problem;
    const floor = this.#floor;
    let open = this.#hosts.flatMap((layer, l) =>
      layer.flatMap((row, e) => (meets(problem, floor, row) ? [] : [{ l, e, row, rows: layerDemand(problem, l)[e] as number }])),
    );
    open.sort((a, b) => b.rows - a.rows || a.l - b.l || a.e - b.e);
    let added = 0;
    // Another round may succeed, since replicas that moved away may have left space.
    for (let before = -1; open.length > 0 && added > before; ) {
      before = added;
      open = open.filter(({ l, e, row }) => {
        while (!meets(problem, floor, row) && this.#add(l, e)) added++;
        return !meets(problem, floor, row);
      });
    }
    return { added, missing: open.length };
  }

  changed(layers: readonly LayerPlan[]): readonly LayerPlan[] {
    if (this.#touched.size === 0) return layers;
    const planned = toLayers(this.#problem, this.#hosts);
    return layers.map((layer, l) => (this.#touched.has(l) ? (planned[l] ?? layer) : layer));
  }

  #add(l: number, e: number): boolean {
    const g = this.#place(l, e) ?? this.#evict(l, e) ?? this.#makeWay(l, e);
    if (g === undefined) return false;
    this.#put({ layer: l, expert: e, rank: g });
    return true;
  }

  #put(expertReplica: ExpertReplica): void {
    const { layer, expert, rank } = expertReplica;
    if (!this.#held(layer, expert, rank)) pay(this.#left, rank, this.#stored(layer, expert));
    this.#hosts[layer]?.[expert]?.push(rank);
    this.#shift(expertReplica, 1);
  }

  #take(expertReplica: ExpertReplica): void {
    const row = this.#hosts[expertReplica.layer]?.[expertReplica.expert] as number[];
    row.splice(row.indexOf(expertReplica.rank), 1);
    this.#shift(expertReplica, -1);
  }

  #resident(l: number, e: number): number {
    return this.#problem.input.shape.residentBytes[l * this.#problem.E + e] as number;
  }

  #stored(l: number, e: number): number {
    return this.#problem.input.shape.storedBytes[l * this.#problem.E + e] as number;
  }

  #held(l: number, e: number, g: number): boolean {
    return this.#before?.[l]?.[e]?.includes(g) ?? false;
  }

  #wants(l: number, e: number, g: number, row = this.#hosts[l]?.[e] as readonly number[]): boolean {
    const problem = this.#problem;
    const floor = this.#floor;
    if ((problem.speed[g] as number) <= 0 || row.includes(g)) return false;
    if (!this.#held(l, e, g) && !affords(this.#left, g, this.#stored(l, e))) return false;
    const newNode = !row.some((host) => problem.node[host] === problem.node[g]);
    return newNode || (nodesOf(problem, row) >= floor.nodes && row.length < floor.expertReplicas);
  }

  #place(l: number, e: number, row = this.#hosts[l]?.[e] as readonly number[]): number | undefined {
    const problem = this.#problem;
    const bytes = this.#resident(l, e);
    let best: number | undefined;
    for (let g = 0; g < problem.G; g++) {
      if (!this.#wants(l, e, g, row) || (this.#count[l]?.[g] as number) >= problem.slotCap) continue;
      if ((this.#used[g] as number) + bytes > (problem.capacity[g] as number) + 1e-6) continue;
      if (best === undefined || this.#preferred({ layer: l, expert: e }, row, g, best)) best = g;
    }
    return best;
  }

  /** True when rank a suits an expert better than rank b: it holds the expert now, else by new node, zone, rack, load and free bytes. */
  #preferred({ layer, expert }: Omit<ExpertReplica, "rank">, row: readonly number[], a: number, b: number): boolean {
    const problem = this.#problem;
    const apart = (g: number): number => {
      const to = problem.ranks[g];
      const node = row.some((host) => problem.node[host] === problem.node[g]) ? 0 : 4;
      const zone = row.length < 2 || row.some((host) => problem.ranks[host]?.zone === to?.zone) ? 0 : 2;
      const rack = row.some((host) => sameRack(problem.ranks[host], to)) ? 0 : 1;
      return node + zone + rack;
    };
    const level = (g: number): number => (this.#load[layer]?.[g] as number) / (problem.speed[g] as number);
    const order = [
      Number(this.#held(layer, expert, a)) - Number(this.#held(layer, expert, b)),
      apart(a) - apart(b),
      level(b) - level(a),
      (this.#used[b] as number) - (this.#used[a] as number),
    ];
    return (order.find((difference) => difference !== 0) ?? 0) > 0;
  }

  /** Drops the expert replica above the floor with the fewest rows, on a rank that wants this one. */
  #evict(l: number, e: number): number | undefined {
    const problem = this.#problem;
    const floor = this.#floor;
    this.#spare ??= this.#spares();
    const at = this.#spare.findIndex((expertReplica) => {
      const row = this.#hosts[expertReplica.layer]?.[expertReplica.expert] as number[];
      const without = row.filter((g) => g !== expertReplica.rank);
      return without.length < row.length && meets(problem, floor, without) && this.#fitsInPlaceOf(l, e, expertReplica);
    });
    const found = this.#spare[at];
    if (!found) return undefined;
    this.#spare.splice(at, 1);
    this.#take(found);
    return found.rank;
  }

  #fitsInPlaceOf(l: number, e: number, { layer, expert, rank }: ExpertReplica): boolean {
    const problem = this.#problem;
    if (!this.#wants(l, e, rank)) return false;
    const slots = (this.#count[l]?.[rank] as number) - (layer === l ? 1 : 0);
    const bytes = (this.#used[rank] as number) + this.#resident(l, e) - this.#resident(layer, expert);
    return slots < problem.slotCap && bytes <= (problem.capacity[rank] as number) + 1e-6;
  }

  /** Moves the expert replica with the fewest rows from a rank that wants this one to another rank. */
  #makeWay(l: number, e: number): number | undefined {
    if (this.#left.moves < 2 || this.#waysSought >= waysMax || !this.#anyFree()) return undefined;
    this.#waysSought++;
    let found: { readonly expertReplica: ExpertReplica; readonly to: number } | undefined;
    let least = Number.POSITIVE_INFINITY;
    for (const { rows, ...expertReplica } of this.#expertReplicas(() => true)) {
      if (rows >= least || (expertReplica.layer === l && expertReplica.expert === e) || !this.#fitsInPlaceOf(l, e, expertReplica)) continue;
      const to = this.#otherPlace(expertReplica);
      if (to === undefined || this.#left.bytes < this.#stored(l, e) + this.#stored(expertReplica.layer, expertReplica.expert)) continue;
      found = { expertReplica, to };
      least = rows;
    }
    if (!found) return undefined;
    this.#take(found.expertReplica);
    this.#put({ ...found.expertReplica, rank: found.to });
    return found.expertReplica.rank;
  }

  #anyFree(): boolean {
    return this.#used.some((bytes, g) => bytes + this.#smallest <= (this.#problem.capacity[g] as number) + 1e-6);
  }

  #otherPlace({ layer, expert, rank }: ExpertReplica): number | undefined {
    const row = this.#hosts[layer]?.[expert] as number[];
    const without = row.filter((g) => g !== rank);
    const to = this.#place(layer, expert, without);
    return to !== undefined && to !== rank && keepsFloor(this.#problem, row, [...without, to]) ? to : undefined;
  }

  #spares(): ExpertReplica[] {
    const found = this.#expertReplicas((row) => row.length > this.#floor.expertReplicas);
    return found.sort((a, b) => a.rows - b.rows || a.layer - b.layer || a.expert - b.expert || a.rank - b.rank);
  }

  #expertReplicas(of: (row: readonly number[]) => boolean): (ExpertReplica & { readonly rows: number })[] {
    const problem = this.#problem;
    return this.#hosts.flatMap((layer, l) => {
      const demand = layerDemand(problem, l);
      return layer.flatMap((row, expert) =>
        of(row) ? row.map((rank) => ({ layer: l, expert, rank, rows: (demand[expert] as number) / row.length })) : [],
      );
    });
  }

  #shift({ layer, expert, rank }: ExpertReplica, sign: number): void {
    const problem = this.#problem;
    const expertReplicas = this.#hosts[layer]?.[expert]?.length ?? 0;
    const rows = (layerDemand(problem, layer)[expert] as number) / Math.max(1, expertReplicas);
    const load = this.#load[layer] as Float64Array;
    const count = this.#count[layer] as Int32Array;
    this.#used[rank] = (this.#used[rank] as number) + sign * this.#resident(layer, expert);
    load[rank] = (load[rank] as number) + sign * rows;
    count[rank] = (count[rank] as number) + sign;
    this.#touched.add(layer);
  }
}
