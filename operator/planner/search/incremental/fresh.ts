// A placement from nothing: slots dealt to layers by need, replicas by load, then longest-processing-time packing.
// It ignores what is hosted now; callers improve it afterwards. Pure and deterministic.
import { sum } from "../../../../runtime/placement/imbalance.ts";
import { type Hosts, layerDemand, type Problem } from "../../problem.ts";
import { layerSlots, rankWeights, replicaCounts } from "./slots.ts";

/** Hosts within slots and bytes; undefined when packing in this order finds no room for an expert. */
export function freshHosts(problem: Problem): Hosts | undefined {
  const slots = layerSlots(problem);
  const used = new Float64Array(problem.G);
  const given = new Float64Array(problem.G);
  const wanted = new Float64Array(problem.G);
  const weight = rankWeights(problem);
  const hosts: Hosts = [];
  for (let l = 0; l < problem.L; l++) {
    const caps = rankCaps(problem, problem.experts[l] as number, slots[l] as number, { weight, given, wanted });
    const layer = packLayer(problem, l, caps, slots[l] as number, used);
    if (!layer) return undefined;
    hosts.push(layer);
  }
  return hosts;
}

/** Of each rank over the layers so far: places given, and what its weight would have had. */
interface Totals {
  readonly weight: Float64Array;
  readonly given: Float64Array;
  readonly wanted: Float64Array;
}

/** Deals a layer's slots to ranks so that each rank's running total follows its weight. */
function rankCaps(problem: Problem, experts: number, slots: number, { weight, given, wanted }: Totals): number[] {
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

function packLayer(problem: Problem, layer: number, caps: number[], slots: number, used: Float64Array): number[][] | undefined {
  const demand = layerDemand(problem, layer);
  const count = replicaCounts(demand, Math.max(demand.length, slots), problem.G, problem.input.minCopies);
  const pieces = count.flatMap((n, e) => Array.from({ length: n }, (_, i) => ({ e, rows: (demand[e] as number) / n, home: i === 0 })));
  pieces.sort((a, b) => b.rows - a.rows || Number(b.home) - Number(a.home) || a.e - b.e);
  const hosts: number[][] = Array.from({ length: demand.length }, () => []);
  const load = new Float64Array(problem.G);
  // Homes still to come keep their slots: a copy is placed only while slots remain for them.
  let room = sum(caps);
  let homes = demand.length;
  for (const { e, rows, home } of pieces) {
    if (!home && room <= homes) continue;
    const bytes = problem.input.shape.residentBytes[layer * problem.E + e] as number;
    const row = hosts[e] as number[];
    const g = place(problem, row, bytes, load, caps, used) ?? (home ? place(problem, row, bytes, load, undefined, used) : undefined);
    if (home) homes--;
    if (g === undefined) {
      if (row.length > 0 || !home) continue;
      return undefined;
    }
    row.push(g);
    room--;
    caps[g] = (caps[g] as number) - 1;
    load[g] = (load[g] as number) + rows;
    used[g] = (used[g] as number) + bytes;
  }
  return hosts;
}

function place(
  problem: Problem,
  row: readonly number[],
  bytes: number,
  load: Float64Array,
  caps: readonly number[] | undefined,
  used: Float64Array,
): number | undefined {
  let best: number | undefined;
  let least = Number.POSITIVE_INFINITY;
  for (let g = 0; g < problem.G; g++) {
    const speed = problem.speed[g] as number;
    if (speed <= 0 || row.includes(g) || (caps && (caps[g] as number) <= 0)) continue;
    if (!caps && problem.slotCap !== Number.POSITIVE_INFINITY) continue;
    if ((used[g] as number) + bytes > (problem.capacity[g] as number) + 1e-6) continue;
    const level = (load[g] as number) / speed;
    // Equally loaded: fewer places left means that less will come on top.
    if (level < least || (level === least && caps && best !== undefined && (caps[g] as number) < (caps[best] as number))) {
      least = level;
      best = g;
    }
  }
  return best;
}
