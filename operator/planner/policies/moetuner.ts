// MoETuner (arXiv 2502.06643): per layer, clusters of experts of equal size with even load (first program), then
// clusters to ranks so that tokens stay on a rank from layer to layer (second program). Small layers are clustered by
// HiGHS, larger ones by longest-first packing and exchanges, from random starts too. The paper leaves cluster sizes open;
// equal sizes are the fix it needs.
import { sum } from "../../../runtime/placement/imbalance.ts";
import type { PlacementPolicy, PlanInput, PlanOutput } from "../policy.ts";
import { fitsMemory, layerDemand, type Problem, someUnhosted, toLayers, toProblem } from "../problem.ts";
import { type Random, seeded, shuffled } from "../random.ts";
import { primariesStay } from "../repair.ts";
import { assign } from "../search/affinity/assignment.ts";
import { type Places, placeChain, seats } from "../search/affinity/chain.ts";
import { withinBudget } from "../search/within-budget.ts";
import { type Program, solve } from "../solver.ts";
import { affinityPlan, expertFlow, placesOf } from "./affinity.ts";

/** experts x ranks up to which HiGHS clusters a layer. */
const solverCellsMax = 32;
const solverNodes = 300;
const solverGap = 5e-3;
/** A clustering as even as this is not worth a solver run. */
const evenEnough = 0.01;

export const moetuner: PlacementPolicy = {
  name: "moetuner",
  summary: "equal clusters of even load, clusters placed by inter-layer transitions (MoETuner)",
  keepsCurrent: true,
  usesTransitions: true,
  evenLayersOnly: true,
  cellsMax: 2_000_000,
  plan: planMoetuner,
};

async function planMoetuner(input: PlanInput): Promise<PlanOutput> {
  const problem = toProblem(input);
  if (someUnhosted(problem)) return primariesStay(input, "memory does not hold every expert");
  const clusters: Places = [];
  const random = seeded(input.seed ?? 1);
  for (let l = 0; l < problem.L; l++) clusters.push(await cluster(layerDemand(problem, l), problem.G, random));
  const places = placeClusters(problem, clusters);
  if (input.transitions) return affinityPlan(problem, places);
  const target = places.map((layer) => layer.map((g) => [g]));
  if (!problem.current && !fitsMemory(problem, target))
    return primariesStay(input, "an equal number of experts per rank does not fit the memory");
  const { hosts, layers } = withinBudget(problem, target);
  return { layers: toLayers(problem, hosts), reason: `clusters of even load, no transitions known; ${layers} layers move` };
}

/** Cluster of each expert: sizes differ by at most one, sum of |load - mean| least. */
async function cluster(demand: Float64Array, clusters: number, random: Random): Promise<number[]> {
  const packed = exchanged(demand, clusters, random);
  if (demand.length * clusters > solverCellsMax || unevenness(demand, packed, clusters) < evenEnough) return packed;
  const solved = await solve(clusterProgram(demand, clusters), { nodes: solverNodes, gap: solverGap });
  if (!solved) return packed;
  const found = Array.from(
    demand,
    (_, e) => Array.from({ length: clusters }, (_, c) => c).find((c) => solved.value(`x${e}_${c}`) > 0.5) ?? 0,
  );
  return unevenness(demand, found, clusters) < unevenness(demand, packed, clusters) ? found : packed;
}

/** First program of MoETuner: which cluster each expert is in, so that the sum over clusters of |load - mean| / mean is least. */
function clusterProgram(demand: ArrayLike<number>, clusters: number): Program {
  const mean = sum(demand) / clusters || 1;
  const experts = Array.from({ length: demand.length }, (_, e) => e);
  const all = Array.from({ length: clusters }, (_, c) => c);
  const seat = seats(demand.length, clusters);
  const rows: Program["rows"][number][] = experts.map((e) => ({ terms: all.map((c) => [`x${e}_${c}`, 1] as const), sense: "=", rhs: 1 }));
  for (const c of all) {
    rows.push({ terms: experts.map((e) => [`x${e}_${c}`, 1] as const), sense: "=", rhs: seat.filter((g) => g === c).length });
    const load = experts.map((e) => [`x${e}_${c}`, (demand[e] as number) / mean] as const);
    rows.push({ terms: [...load, [`d${c}`, -1]], sense: "<=", rhs: 1 }, { terms: [...load, [`d${c}`, 1]], sense: ">=", rhs: 1 });
  }
  // Clusters of one size are interchangeable: the heaviest expert is in the first.
  const heaviest = experts.reduce((a, b) => ((demand[b] as number) > (demand[a] as number) ? b : a), 0);
  if (demand.length % clusters === 0) rows.push({ terms: [[`x${heaviest}_0`, 1]], sense: "=", rhs: 1 });
  return { minimise: all.map((c) => [`d${c}`, 1] as const), rows, binaries: experts.flatMap((e) => all.map((c) => `x${e}_${c}`)) };
}

/** Sum over clusters of |load - mean| / mean: the first program's objective. */
function unevenness(demand: ArrayLike<number>, cluster: readonly number[], clusters: number): number {
  const mean = sum(demand) / clusters || 1;
  return clusterLoad(demand, cluster, clusters).reduce((total, load) => total + Math.abs(load - mean) / mean, 0);
}

function clusterLoad(demand: ArrayLike<number>, cluster: readonly number[], clusters: number): Float64Array {
  const load = new Float64Array(clusters);
  cluster.forEach((c, e) => {
    load[c] = (load[c] as number) + (demand[e] as number);
  });
  return load;
}

/** Longest first into the lightest cluster with a seat. */
function pack(demand: ArrayLike<number>, clusters: number): number[] {
  const left = new Array<number>(clusters).fill(0);
  for (const c of seats(demand.length, clusters)) left[c] = (left[c] as number) + 1;
  const load = new Float64Array(clusters);
  const cluster = new Array<number>(demand.length).fill(0);
  const order = Array.from({ length: demand.length }, (_, e) => e).sort((a, b) => (demand[b] as number) - (demand[a] as number) || a - b);
  for (const e of order) {
    let best = -1;
    for (let c = 0; c < clusters; c++) if ((left[c] as number) > 0 && (best < 0 || (load[c] as number) < (load[best] as number))) best = c;
    cluster[e] = best;
    left[best] = (left[best] as number) - 1;
    load[best] = (load[best] as number) + (demand[e] as number);
  }
  return cluster;
}

/** Random starts of exchanges for a layer, and the work of all of them, in pairs of experts: large layers have few. */
const exchangeStarts = 200;
const exchangeWork = 2e5;

/** Exchanges from the packing, then from random clusters until they are even enough; the most even are returned. */
function exchanged(demand: Float64Array, clusters: number, random: Random): number[] {
  let best = exchange(demand, pack(demand, clusters), clusters);
  let least = unevenness(demand, best, clusters);
  const starts = Math.min(exchangeStarts, Math.floor(exchangeWork / demand.length ** 2));
  const seat = seats(demand.length, clusters);
  for (let n = 0; n < starts && least >= evenEnough; n++) {
    const start = shuffled(demand.length, random).map((e) => seat[e] as number);
    const found = exchange(demand, start, clusters);
    const uneven = unevenness(demand, found, clusters);
    if (uneven >= least) continue;
    best = found;
    least = uneven;
  }
  return best;
}

const roundsMax = 50;

/** Exchanges of two experts, the best first, while the sum of |load - mean| falls. */
function exchange(demand: ArrayLike<number>, start: readonly number[], clusters: number): number[] {
  const cluster = start.slice();
  const mean = sum(demand) / clusters;
  const load = clusterLoad(demand, cluster, clusters);
  const off = (c: number, change: number): number => Math.abs((load[c] as number) + change - mean);
  for (let round = 0; round < roundsMax; round++) {
    let best: { a: number; b: number; gain: number } | undefined;
    for (let a = 0; a < cluster.length; a++) {
      for (let b = a + 1; b < cluster.length; b++) {
        const [ca, cb] = [cluster[a] as number, cluster[b] as number];
        if (ca === cb) continue;
        const d = (demand[b] as number) - (demand[a] as number);
        const gain = off(ca, 0) + off(cb, 0) - off(ca, d) - off(cb, -d);
        if (gain > 1e-9 * mean && gain > (best?.gain ?? 0)) best = { a, b, gain };
      }
    }
    if (!best) break;
    const [ca, cb] = [cluster[best.a] as number, cluster[best.b] as number];
    const d = (demand[best.b] as number) - (demand[best.a] as number);
    load[ca] = (load[ca] as number) + d;
    load[cb] = (load[cb] as number) - d;
    cluster[best.a] = cb;
    cluster[best.b] = ca;
  }
  return cluster;
}

/** Second program: clusters of each layer to ranks; without transitions to the rank that hosts most of them already. */
function placeClusters(problem: Problem, clusters: Places): Places {
  const { L, G, E } = problem;
  const primaries = placesOf(problem);
  const between = new Float64Array(Math.max(0, L - 1) * G * G);
  if (problem.input.transitions) {
    const flow = expertFlow(problem);
    for (let l = 0; l + 1 < L; l++) {
      for (let i = 0; i < E; i++) {
        for (let j = 0; j < E; j++) {
          const at = (l * G + (clusters[l]?.[i] as number)) * G + (clusters[l + 1]?.[j] as number);
          between[at] = (between[at] as number) + flow(l, i, j);
        }
      }
    }
    const chain = { layers: L, items: G, ranks: G, flow: (l: number, i: number, j: number) => between[(l * G + i) * G + j] as number };
    const ranks = placeChain(chain, undefined, seeded(problem.input.seed ?? 1));
    return clusters.map((layer, l) => layer.map((c) => ranks[l]?.[c] as number));
  }
  if (!primaries) return clusters;
  return clusters.map((layer, l) => {
    const both = new Int32Array(G * G);
    layer.forEach((c, e) => {
      const at = (primaries[l]?.[e] as number) * G + c;
      both[at] = (both[at] as number) + 1;
    });
    const rank = assign(G, (c, g) => -(both[g * G + c] as number));
    return layer.map((c) => rank[c] as number);
  });
}
