// A placement from nothing: slots dealt to layers by need, replicas by load, then longest-processing-time packing.
import { sum } from "../../../../runtime/placement/imbalance.ts";
import { type Hosts, layerDemand, type Problem } from "../../problem.ts";
import { layerSlots, rankWeights, replicaCounts } from "./slots.ts";

/** Hosts within slots and bytes; undefined when packing in this order finds no space for an expert. */
export function freshHosts(problem: Problem): Hosts | undefined {
  const slots = layerSlots(problem);
  const used = new Float64Array(problem.G);
  const deal: Deal = { weight: rankWeights(problem), given: new Float64Array(problem.G), wanted: new Float64Array(problem.G) };
  const hosts: Hosts = [];
  for (let l = 0; l < problem.L; l++) {
    const caps = rankCaps(problem, { experts: problem.experts[l] as number, slots: slots[l] as number }, deal);
    const layer = packLayer(problem, l, { caps, slots: slots[l] as number }, used);
    if (!layer) return undefined;
    hosts.push(layer);
  }
  return hosts;
}

interface Deal {
  readonly weight: Float64Array;
  readonly given: Float64Array;
  readonly wanted: Float64Array;
}

/** Deals a layer's slots so that each rank's running total follows its weight. */
function rankCaps(
  problem: Problem,
  { experts, slots }: { readonly experts: number; readonly slots: number },
  { weight, given, wanted }: Deal,
): number[] {
  const { G } = problem;
  if (problem.slotCap !== Number.POSITIVE_INFINITY) return new Array<number>(G).fill(problem.slotCap);
  const all = sum(weight);
  for (let g = 0; g < G; g++) wanted[g] = (wanted[g] as number) + (all > 0 ? (slots * (weight[g] as number)) / all : 0);
  const caps = Array.from({ length: G }, (_, g) =>
    Math.max(0, Math.min(experts, Math.floor((wanted[g] as number) - (given[g] as number)))),
  );
  let left = slots - sum(caps);
  const order = Array.from({ length: G }, (_, g) => g).sort((a, b) => rest(b) - rest(a) || a - b);
  function rest(g: number): number {
    return (wanted[g] as number) - (given[g] as number) - (caps[g] as number);
  }
  for (let i = 0; left > 0 && i < 2 * G; i++) {
    const g = order[i % G] as number;
    if ((caps[g] as number) >= experts) continue;
    caps[g] = (caps[g] as number) + 1;
    left--;
  }
  for (let g = 0; g < G; g++) given[g] = (given[g] as number) + (caps[g] as number);
  return caps;
}

interface LayerSlots {
  readonly caps: number[];
  readonly slots: number;
}

function packLayer(problem: Problem, layer: number, { caps, slots }: LayerSlots, used: Float64Array): number[][] | undefined {
  const demand = layerDemand(problem, layer);
  const count = replicaCounts(demand, Math.max(demand.length, slots), problem.G, problem.input.minExpertReplicas);
  const pieces = count.flatMap((n, e) => Array.from({ length: n }, (_, i) => ({ e, rows: (demand[e] as number) / n, primary: i === 0 })));
  pieces.sort((a, b) => b.rows - a.rows || Number(b.primary) - Number(a.primary) || a.e - b.e);
  const hosts: number[][] = Array.from({ length: demand.length }, () => []);
  const load = new Float64Array(problem.G);
  // A replica is placed only while slots remain for the primaries still to come.
  let freeSlots = sum(caps);
  let primaries = demand.length;
  for (const { e, rows, primary } of pieces) {
    if (!primary && freeSlots <= primaries) continue;
    const bytes = problem.input.shape.residentBytes[layer * problem.E + e] as number;
    const row = hosts[e] as number[];
    const piece = { row, bytes };
    const g = place(problem, piece, { load, used, caps }) ?? (primary ? place(problem, piece, { load, used }) : undefined);
    if (primary) primaries--;
    if (g === undefined) {
      if (row.length > 0 || !primary) continue;
      return undefined;
    }
    row.push(g);
    freeSlots--;
    caps[g] = (caps[g] as number) - 1;
    load[g] = (load[g] as number) + rows;
    used[g] = (used[g] as number) + bytes;
  }
  return hosts;
}

interface Filled {
  readonly load: Float64Array;
  readonly used: Float64Array;
  readonly caps?: readonly number[];
}

function place(
  problem: Problem,
  { row, bytes }: { readonly row: readonly number[]; readonly bytes: number },
  { load, used, caps }: Filled,
): number | undefined {
  let best: number | undefined;
  let least = Number.POSITIVE_INFINITY;
  for (let g = 0; g < problem.G; g++) {
    const speed = problem.speed[g] as number;
    if (speed <= 0 || row.includes(g) || (caps && (caps[g] as number) <= 0)) continue;
    if (!caps && problem.slotCap !== Number.POSITIVE_INFINITY) continue;
    if ((used[g] as number) + bytes > (problem.capacity[g] as number) + 1e-6) continue;
    const level = (load[g] as number) / speed;
    if (level < least || (level === least && caps && best !== undefined && (caps[g] as number) < (caps[best] as number))) {
      least = level;
      best = g;
    }
  }
  return best;
}
