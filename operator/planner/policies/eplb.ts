// DeepSeek's EPLB (github.com/deepseek-ai/EPLB): replicas by load, packed longest first into equal slots. The policy is the global
// form.
import { isUnlimited, type PlacementPolicy, type PlanInput, type PlanOutput } from "../policy.ts";
import { fitsMemory, type Hosts, layerDemand, type Problem, toLayers, toProblem } from "../problem.ts";
import { primariesStay } from "../repair.ts";
import { relabelled } from "../search/relabel.ts";
import { withinBudget } from "../search/within-budget.ts";

export const eplb: PlacementPolicy = {
  name: "eplb",
  summary: "DeepSeek EPLB, global: replans from nothing each time",
  keepsCurrent: false,
  cellsMax: Number.POSITIVE_INFINITY,
  plan: planEplb,
};

function planEplb(input: PlanInput): PlanOutput {
  const problem = toProblem(input);
  if (problem.slotCap * problem.G < problem.E) return primariesStay(input, "a layer has more experts than the ranks have slots");
  const target = eplbHosts(problem);
  const reason = "replicas by load per expert replica, packed longest first";
  if (!problem.current || isUnlimited(input.budget)) {
    // Equal slots exceed the memory if sizes differ or slots are too few.
    if (!fitsMemory(problem, target)) return primariesStay(input, "an equal number of slots per layer and rank does not fit the memory");
    return { layers: toLayers(problem, target), reason };
  }
  const named = target.map((layer, l) => relabelled(problem, l, layer));
  const { hosts, layers } = withinBudget(problem, named);
  return { layers: toLayers(problem, hosts), reason: `${reason}; within the budget ${layers} layers change` };
}

function eplbHosts(problem: Problem): Hosts {
  const perRank = Math.max(slotsPerLayer(problem), Math.ceil(problem.E / Math.max(1, problem.G)));
  return Array.from({ length: problem.L }, (_, l) => layerHosts(layerDemand(problem, l), problem.G, perRank));
}

function layerHosts(demand: Float64Array, ranks: number, perRank: number): number[][] {
  return demand.length === 0 ? [] : distinct(eplbGlobal(demand, ranks, perRank).replicas, demand.length);
}

function slotsPerLayer({ slotCap, L, E, capacity, staging }: Problem): number {
  if (slotCap !== Number.POSITIVE_INFINITY) return slotCap;
  const bytes = capacity.reduce((least, each) => Math.min(least, each), Number.POSITIVE_INFINITY);
  return staging > 0 ? Math.max(0, Math.min(E, Math.floor(bytes / staging / Math.max(1, L) + 1e-9))) : E;
}

function distinct(replicas: readonly (readonly number[])[], experts: number): number[][] {
  const hosts: number[][] = Array.from({ length: experts }, () => []);
  replicas.forEach((list, g) => {
    for (const e of list) if (!hosts[e]?.includes(g)) hosts[e]?.push(g);
  });
  return hosts;
}

/** replicas[g] = experts in the slots of rank g. */
export function eplbGlobal(demand: ArrayLike<number>, ranks: number, perRank: number): { replicas: number[][]; count: number[] } {
  const { count, extra } = replicate(demand, ranks * perRank);
  // First replicas in expert order, then the given order, which breaks ties.
  const pieces = [...count.keys(), ...extra];
  return {
    replicas: pack(
      pieces.map((e) => ({ item: e, weight: (demand[e] as number) / (count[e] as number) })),
      ranks,
      perRank,
    ),
    count,
  };
}

function replicate(demand: ArrayLike<number>, slots: number): { count: number[]; extra: number[] } {
  const count = new Array<number>(demand.length).fill(1);
  const extra: number[] = [];
  for (let s = demand.length; s < slots; s++) {
    let top = 0;
    for (let e = 1; e < demand.length; e++)
      if ((demand[e] as number) / (count[e] as number) > (demand[top] as number) / (count[top] as number)) top = e;
    count[top] = (count[top] as number) + 1;
    extra.push(top);
  }
  return { count, extra };
}

/** Heaviest first, each into the lightest bin with a place left. */
export function pack(items: readonly { readonly item: number; readonly weight: number }[], bins: number, places: number): number[][] {
  const order = items.map((_, i) => i).sort((a, b) => (items[b]?.weight ?? 0) - (items[a]?.weight ?? 0) || a - b);
  const packed: number[][] = Array.from({ length: bins }, () => []);
  const load = new Float64Array(bins);
  for (const i of order) {
    const { item, weight } = items[i] as { item: number; weight: number };
    let best = -1;
    for (let b = 0; b < bins; b++) {
      if ((packed[b] as number[]).length < places && (best < 0 || (load[b] as number) < (load[best] as number))) best = b;
    }
    if (best < 0) continue;
    (packed[best] as number[]).push(item);
    load[best] = (load[best] as number) + weight;
  }
  return packed;
}
