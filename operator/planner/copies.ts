// The floor under every expert's copies: at least `minCopies` hosts, on as many different nodes, as far as there are ranks,
// nodes and bytes; so that the loss of one node leaves no expert without a live copy. Adds what is missing, takes room from
// copies above the floor when there is none, and touches nothing else. Pure.
import type { LayerPlan } from "../../crds/plan.ts";
import { diffPlans } from "../../runtime/placement/diff.ts";
import type { PlanInput, RankSpec } from "./policy.ts";
import { type Hosts, layerDemand, type Problem, toLayers, toProblem, usedBytes } from "./problem.ts";

export interface Floored {
  readonly layers: readonly LayerPlan[];
  /** Copies added, those that the present placement has already included. */
  readonly added: number;
  /** Experts that stay below the floor: no room, or the move budget ended. */
  readonly missing: number;
}

/** (layer, expert) pairs whose live hosts are all on one node: its loss would leave them to the model store. */
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

/** Experts of a placement with fewer copies, or on fewer nodes, than the floor asks of the active ranks. */
export function belowFloor(input: PlanInput, layers: readonly LayerPlan[]): number {
  if (input.minCopies <= 1) return 0;
  const problem = toProblem({ ...input, current: layers });
  const floor = floorOf(problem);
  return (problem.current ?? []).reduce((n, layer) => n + layer.filter((row) => !meets(problem, floor, row)).length, 0);
}

/** Whether an expert may go from some hosts to others (rank indexes) without falling below the floor, or further below it. */
export function keepsFloor(problem: Problem, from: readonly number[], to: readonly number[]): boolean {
  const { minCopies } = problem.input;
  if (minCopies <= 1) return true;
  return to.length >= Math.min(minCopies, from.length) && nodesOf(problem, to) >= Math.min(minCopies, nodesOf(problem, from));
}

/**
 * `layers` with the floor made good, within what of the move budget a step from `input.current` leaves. The hottest experts
 * come first. A copy goes to a node without one, from the third on to a zone without one; first of all to where it is now.
 */
export function withFloor(input: PlanInput, layers: readonly LayerPlan[]): Floored {
  if (input.minCopies <= 1) return { layers, added: 0, missing: 0 };
  const keeper = new FloorKeeper(input, layers);
  const { added, missing } = keeper.fill();
  return { layers: keeper.changed(layers), added, missing };
}

/** A policy's plan with the floor made good; where that is not possible the layer stays as it is. */
export function keepFloor(input: PlanInput, layers: readonly LayerPlan[]): readonly LayerPlan[] {
  const { current } = input;
  if (input.minCopies <= 1) return layers;
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
  readonly copies: number;
  readonly nodes: number;
}

function floorOf(problem: Problem): Floor {
  const able = Array.from({ length: problem.G }, (_, g) => g).filter((g) => (problem.speed[g] as number) > 0);
  const { minCopies } = problem.input;
  return { copies: Math.min(minCopies, able.length), nodes: Math.min(minCopies, nodesOf(problem, able)) };
}

function meets(problem: Problem, floor: Floor, row: readonly number[]): boolean {
  return row.length >= floor.copies && nodesOf(problem, row) >= floor.nodes;
}

function nodesOf(problem: Problem, row: readonly number[]): number {
  return row.length < 2 ? row.length : new Set(row.map((g) => problem.node[g])).size;
}

interface Copy {
  readonly layer: number;
  readonly expert: number;
  readonly rank: number;
}

class FloorKeeper {
  private readonly problem: Problem;
  private readonly floor: Floor;
  private readonly hosts: Hosts;
  private readonly before: Hosts | undefined;
  private readonly used: Float64Array;
  private readonly load: Float64Array[];
  private readonly count: Int32Array[];
  private readonly touched = new Set<number>();
  private movesLeft: number;
  private bytesLeft: number;
  private spare: Copy[] | undefined;

  constructor(input: PlanInput, layers: readonly LayerPlan[]) {
    const problem = toProblem({ ...input, current: layers });
    const hosts = problem.current as Hosts;
    this.problem = problem;
    this.floor = floorOf(problem);
    this.hosts = hosts;
    this.before = toProblem(input).current;
    this.used = usedBytes(problem, hosts);
    this.load = hosts.map((layer, l) => {
      const load = new Float64Array(problem.G);
      for (const [e, row] of layer.entries())
        for (const g of row) load[g] = (load[g] as number) + (layerDemand(problem, l)[e] as number) / row.length;
      return load;
    });
    this.count = hosts.map((layer) => {
      const count = new Int32Array(problem.G);
      for (const row of layer) for (const g of row) count[g] = (count[g] as number) + 1;
      return count;
    });
    const { moves } = input.current ? diffPlans(input.current, layers, (l, e) => this.stored(l, e)) : { moves: [] };
    this.movesLeft = input.budget.maxMoves - moves.length;
    this.bytesLeft = input.budget.maxBytes - moves.reduce((bytes, move) => bytes + move.bytes, 0);
  }

  fill(): { readonly added: number; readonly missing: number } {
    const { problem, floor } = this;
    const open = this.hosts.flatMap((layer, l) =>
      layer.flatMap((row, e) => (meets(problem, floor, row) ? [] : [{ l, e, rows: layerDemand(problem, l)[e] as number }])),
    );
    open.sort((a, b) => b.rows - a.rows || a.l - b.l || a.e - b.e);
    let added = 0;
    let missing = 0;
    for (const { l, e } of open) {
      const row = this.hosts[l]?.[e] as number[];
      while (!meets(problem, floor, row) && this.add(l, e)) added++;
      if (!meets(problem, floor, row)) missing++;
    }
    return { added, missing };
  }

  /** Layers that were touched, with new shares. */
  changed(layers: readonly LayerPlan[]): readonly LayerPlan[] {
    if (this.touched.size === 0) return layers;
    const planned = toLayers(this.problem, this.hosts);
    return layers.map((layer, l) => (this.touched.has(l) ? (planned[l] ?? layer) : layer));
  }

  private add(l: number, e: number): boolean {
    const g = this.place(l, e) ?? this.makeRoom(l, e);
    if (g === undefined) return false;
    const row = this.hosts[l]?.[e] as number[];
    if (!this.held(l, e, g)) {
      this.movesLeft--;
      this.bytesLeft -= this.stored(l, e);
    }
    row.push(g);
    this.shift({ layer: l, expert: e, rank: g }, 1);
    return true;
  }

  private stored(l: number, e: number): number {
    return this.problem.input.shape.storedBytes[l * this.problem.E + e] as number;
  }

  private held(l: number, e: number, g: number): boolean {
    return this.before?.[l]?.[e]?.includes(g) ?? false;
  }

  /** May this rank take a copy, room aside? */
  private wants(l: number, e: number, g: number): boolean {
    const { problem, floor } = this;
    const row = this.hosts[l]?.[e] as number[];
    if ((problem.speed[g] as number) <= 0 || row.includes(g)) return false;
    if ((this.movesLeft < 1 || this.stored(l, e) > this.bytesLeft) && !this.held(l, e, g)) return false;
    const newNode = !row.some((host) => problem.node[host] === problem.node[g]);
    return newNode || (nodesOf(problem, row) >= floor.nodes && row.length < floor.copies);
  }

  private place(l: number, e: number): number | undefined {
    const { problem } = this;
    const bytes = problem.input.shape.residentBytes[l * problem.E + e] as number;
    let best: number | undefined;
    for (let g = 0; g < problem.G; g++) {
      if (!this.wants(l, e, g) || (this.count[l]?.[g] as number) >= problem.slotCap) continue;
      if ((this.used[g] as number) + bytes > (problem.capacity[g] as number) + 1e-6) continue;
      if (best === undefined || this.preferred(l, e, g, best)) best = g;
    }
    return best;
  }

  /** Where it is now; a node, then (from the third copy on) a zone without one; the least loaded; the emptiest. */
  private preferred(l: number, e: number, a: number, b: number): boolean {
    const { problem } = this;
    const row = this.hosts[l]?.[e] as number[];
    const apart = (g: number): number => {
      const node = row.some((host) => problem.node[host] === problem.node[g]) ? 0 : 2;
      const zone = row.length < 2 || row.some((host) => problem.ranks[host]?.zone === problem.ranks[g]?.zone) ? 0 : 1;
      return node + zone;
    };
    const level = (g: number): number => (this.load[l]?.[g] as number) / (problem.speed[g] as number);
    const order = [
      Number(this.held(l, e, a)) - Number(this.held(l, e, b)),
      apart(a) - apart(b),
      level(b) - level(a),
      (this.used[b] as number) - (this.used[a] as number),
    ];
    return (order.find((difference) => difference !== 0) ?? 0) > 0;
  }

  /** Drops the copy above the floor that carries least, on a rank that wants this one. */
  private makeRoom(l: number, e: number): number | undefined {
    const { problem, floor } = this;
    const bytes = problem.input.shape.residentBytes[l * problem.E + e] as number;
    this.spare ??= this.spares();
    const at = this.spare.findIndex(({ layer, expert, rank }) => {
      const row = this.hosts[layer]?.[expert] as number[];
      const without = row.filter((g) => g !== rank);
      if (without.length === row.length || !meets(problem, floor, without) || !this.wants(l, e, rank)) return false;
      const size = problem.input.shape.residentBytes[layer * problem.E + expert] as number;
      const slots = (this.count[l]?.[rank] as number) - (layer === l ? 1 : 0);
      return slots < problem.slotCap && (this.used[rank] as number) + bytes - size <= (problem.capacity[rank] as number) + 1e-6;
    });
    const found = this.spare[at];
    if (!found) return undefined;
    this.spare.splice(at, 1);
    const row = this.hosts[found.layer]?.[found.expert] as number[];
    row.splice(row.indexOf(found.rank), 1);
    this.shift(found, -1);
    return found.rank;
  }

  /** Copies of experts above the floor, those that carry least first. */
  private spares(): Copy[] {
    const { problem, floor } = this;
    const found = this.hosts.flatMap((layer, l) =>
      layer.flatMap((row, expert) =>
        row.length > floor.copies
          ? row.map((rank) => ({ layer: l, expert, rank, rows: (layerDemand(problem, l)[expert] as number) / row.length }))
          : [],
      ),
    );
    return found.sort((a, b) => a.rows - b.rows || a.layer - b.layer || a.expert - b.expert || a.rank - b.rank);
  }

  private shift({ layer, expert, rank }: Copy, sign: number): void {
    const { problem } = this;
    const bytes = problem.input.shape.residentBytes[layer * problem.E + expert] as number;
    const copies = this.hosts[layer]?.[expert]?.length ?? 0;
    const rows = (layerDemand(problem, layer)[expert] as number) / Math.max(1, copies);
    const load = this.load[layer] as Float64Array;
    const count = this.count[layer] as Int32Array;
    this.used[rank] = (this.used[rank] as number) + sign * bytes;
    load[rank] = (load[rank] as number) + sign * rows;
    count[rank] = (count[rank] as number) + sign;
    this.touched.add(layer);
  }
}
