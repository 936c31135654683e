// Runs a policy over a trace: plan from windows <= t, score on t + 1. `enodia plan simulate` and the benchmark print the
// result.
import type { LayerPlan } from "../../../crds/plan.ts";
import { countMoves, diffPlans } from "../../../runtime/placement/diff.ts";
import { cellValues, expertsIn } from "../../../runtime/placement/grid.ts";
import { bound, fastestOf, imbalance, jointBound, relativeLoad } from "../../../runtime/placement/imbalance.ts";
import { loadByWeights, splitEqually, splitLayer } from "../../../runtime/placement/split.ts";
import { planNoise } from "../defaults.ts";
import { keepFloor } from "../expert-replicas.ts";
import { Forecaster, layerTotals } from "../load/forecast.ts";
import { ReshardAge } from "../load/timing.ts";
import { expertReplicaKey, type PlacementPolicy, type PlanInput, type RankSpec, type Timing, unlimited } from "../policy.ts";
import { assertPlan } from "../validate.ts";
import type { Trace } from "./traces.ts";

export const splitNames = ["equal", "fixed", "optimal"] as const;
export type SplitName = (typeof splitNames)[number];

export interface SimulateOptions {
  readonly trace: Trace;
  readonly policy: PlacementPolicy;
  readonly ranks: number;
  readonly slots?: number;
  /** Experts per rank over all layers; layers may differ. */
  readonly slotsTotal?: number;
  readonly speeds?: readonly number[];
  readonly budgetExpertReplicas?: number;
  readonly budgetExpertReplicasPerRank?: number;
  readonly windows?: number;
  readonly gainPerMove?: number;
  readonly effort?: PlanInput["effort"];
  readonly minExpertReplicas?: number;
  readonly split?: "weighted" | "equal";
  /** Weights hold until the next plan, as on a cluster; unset: routers recompute them for every window. */
  readonly fixedWeights?: boolean;
  readonly nodes?: number;
  /** The noise that the policy gets: "all" prevents every move for sampling noise, "cluster" is what the operator uses. */
  readonly noise?: "all" | "cluster";
  /** The load that plans are made for: the planner's forecast (default), or the last window, as in the published EPLB. */
  readonly forecast?: "selected" | "last";
  /** The work that transfers hide behind, one byte per expert; unset: not measured. */
  readonly timing?: Omit<Timing, "windows">;
  /** Allows primaries to be sharded anew in every window. */
  readonly reshardAlways?: boolean;
  readonly now: () => number;
  /** Called and awaited after each window. The simulation does not store the plan, since a long trace has too many. */
  readonly onWindow?: (result: WindowResult, layers: readonly LayerPlan[]) => void | Promise<void>;
}

export interface WindowResult {
  readonly window: number;
  readonly expertReplicas: number;
  readonly bytes: number;
  readonly ms: number;
  readonly reason: string;
  /** Scores on window t + 1, absent for the last one: mean/max averaged over layers, and the worst layer's max/mean. */
  readonly next?: Readonly<Record<SplitName, { readonly balance: number; readonly worst: number }>>;
  readonly bound?: number;
  readonly rankLoad?: Readonly<Record<SplitName, Float64Array>>;
}

const dwellWindows = 3;

/** Ranks 0 .. ranks - 1, all active; budgets in experts of one byte each, speeds repeated in turn, nodes of equal size. */
export function rankSpecs(options: Pick<SimulateOptions, "ranks" | "slots" | "slotsTotal" | "speeds" | "nodes">): RankSpec[] {
  const budget = options.slotsTotal !== undefined ? options.slotsTotal + 1 : Number.POSITIVE_INFINITY;
  return Array.from({ length: options.ranks }, (_, rank) => ({
    rank,
    speed: options.speeds?.[rank % options.speeds.length] ?? 1,
    budgetBytes: budget,
    zone: "z0",
    node: `n${Math.floor((rank * (options.nodes ?? options.ranks)) / options.ranks)}`,
    state: "active" as const,
  }));
}

/** One result per window. The moves of the first plan do not count. */
export async function simulate(options: SimulateOptions): Promise<WindowResult[]> {
  const { trace } = options;
  const cells = trace.layers * trace.experts;
  const ranks = rankSpecs(options);
  const speed = Float64Array.from(ranks, (rank) => rank.speed);
  const shape = {
    layers: trace.layers,
    experts: trace.experts,
    layerExperts: trace.layerExperts,
    residentBytes: Float64Array.from(cellValues(trace, () => 1)),
    storedBytes: Float64Array.from(cellValues(trace, () => 1)),
  };
  const forecaster = new Forecaster(trace.layers, trace.experts);
  const windows = Math.min(options.windows ?? trace.windows, trace.windows);
  const history: { added: number[]; dropped: number[] }[] = [];
  const results: WindowResult[] = [];
  let current: readonly LayerPlan[] | undefined;
  const resharded = new ReshardAge();
  for (let t = 0; t < windows; t++) {
    const counts = trace.counts.subarray(t * cells, (t + 1) * cells);
    const started = options.now();
    const forecast = forecaster.observe(counts);
    if (forecast.alarm || options.reshardAlways) resharded.forget();
    const input = inputOf(options, {
      shape,
      ranks,
      load: options.forecast === "last" ? Float64Array.from(counts) : forecast.load,
      unrest: options.fixedWeights ? undefined : forecast.unrest,
      current,
      history,
      noise: noiseOf(options, forecaster, counts),
      reshard: resharded.input(t),
      lifetime: forecast.lifetime,
    });
    const made = await options.policy.plan(input);
    const layers = keepFloor(input, made.layers);
    const ms = options.now() - started;
    assertPlan(input, layers);
    const expertReplicas = current ? countMoves(current, layers) : 0;
    remember(history, input, layers);
    resharded.planned(t, made);
    const next = t + 1 < windows ? trace.counts.subarray((t + 1) * cells, (t + 2) * cells) : undefined;
    const result = {
      window: t,
      expertReplicas,
      bytes: expertReplicas,
      ms,
      reason: made.reason,
      ...(next ? score(options, next, layers, speed) : {}),
    };
    results.push(result);
    await options.onWindow?.(result, layers);
    current = layers;
  }
  return results;
}

interface Step {
  readonly shape: PlanInput["shape"];
  readonly ranks: readonly RankSpec[];
  readonly load: Float64Array;
  readonly unrest: number | undefined;
  readonly current: readonly LayerPlan[] | undefined;
  readonly history: readonly { readonly added: readonly number[]; readonly dropped: readonly number[] }[];
  readonly noise: Float64Array | undefined;
  readonly reshard: Pick<PlanInput, "windowsSinceReshard">;
  readonly lifetime: number;
}

function noiseOf({ trace, noise, ranks }: SimulateOptions, forecaster: Forecaster, counts: Uint32Array): Float64Array | undefined {
  if (noise === undefined) return undefined;
  const all = forecaster.layerNoise(layerTotals(counts, trace.layers, trace.experts), ranks);
  return noise === "cluster" ? planNoise(all) : all;
}

function inputOf(options: SimulateOptions, { history, noise, unrest, reshard, lifetime, ...step }: Step): PlanInput {
  return {
    ...step,
    ...reshard,
    ...(options.timing ? { timing: { ...options.timing, windows: lifetime } } : {}),
    ...(unrest === undefined ? {} : { unrest }),
    budget: {
      ...unlimited,
      maxMoves: options.budgetExpertReplicas ?? Infinity,
      maxMovesPerRank: options.budgetExpertReplicasPerRank ?? Infinity,
    },
    minExpertReplicas: options.minExpertReplicas ?? 1,
    split: options.split ?? "weighted",
    effort: options.effort ?? "quality",
    recent: { added: new Set(history.flatMap((h) => h.added)), dropped: new Set(history.flatMap((h) => h.dropped)) },
    ...(noise ? { noise } : {}),
    ...(options.slotsTotal === undefined && options.slots !== undefined ? { slotsPerRank: options.slots } : {}),
    ...(options.gainPerMove !== undefined ? { gainPerMove: options.gainPerMove } : {}),
  };
}

function remember(history: { added: number[]; dropped: number[] }[], input: PlanInput, layers: readonly LayerPlan[]): void {
  if (!input.current) return;
  const diff = diffPlans(input.current, layers, () => 1);
  const key = (expertReplica: { layer: number; expert: number; rank: number }): number =>
    expertReplicaKey(input, expertReplica.layer, expertReplica.expert, expertReplica.rank);
  history.push({ added: diff.moves.map(key), dropped: diff.drops.map(key) });
  if (history.length > dwellWindows - 1) history.shift();
}

function score(
  options: SimulateOptions,
  counts: Uint32Array,
  plan: readonly LayerPlan[],
  speed: Float64Array,
): Required<Pick<WindowResult, "next" | "bound" | "rankLoad">> {
  const { trace } = options;
  const spread = plan.map((layer, l) => ({ layer, l, experts: expertsIn(trace, l) })).filter(({ experts }) => experts > 0);
  const layers = spread.map(({ layer }) => layer);
  const demands = spread.map(({ l, experts }) => counts.subarray(l * trace.experts, l * trace.experts + experts));
  const loads: Record<SplitName, Float64Array[]> = {
    equal: layers.map((layer, l) => splitEqually({ demand: demands[l] as Uint32Array, hosts: layer.hosts, speed }).load),
    fixed: layers.map((layer, l) => loadByWeights(demands[l] as Uint32Array, layer.hosts, layer.weights, options.ranks)),
    optimal: layers.map((layer, l) => splitLayer({ demand: demands[l] as Uint32Array, hosts: layer.hosts, speed }).load),
  };
  const measure = (name: SplitName): { balance: number; worst: number } => {
    const ratios = loads[name].map((load) => imbalance(load, speed));
    return { balance: ratios.reduce((total, ratio) => total + 1 / ratio, 0) / ratios.length, worst: Math.max(...ratios) };
  };
  const slotsTotal = options.slotsTotal;
  const fastest = fastestOf(speed);
  const best =
    slotsTotal !== undefined
      ? jointBound(demands, options.ranks, slotsTotal * options.ranks, fastest)
      : Math.max(...demands.map((demand) => bound(demand, options.ranks, (options.slots ?? trace.experts) * options.ranks, fastest)));
  const next = { equal: measure("equal"), fixed: measure("fixed"), optimal: measure("optimal") };
  const ranks = (name: SplitName): Float64Array => meanLoad(loads[name], speed);
  return { next, bound: best, rankLoad: { equal: ranks("equal"), fixed: ranks("fixed"), optimal: ranks("optimal") } };
}

function meanLoad(layers: readonly Float64Array[], speed: Float64Array): Float64Array {
  const out = new Float64Array(speed.length);
  for (const load of layers)
    relativeLoad(load, speed).forEach((ratio, g) => {
      out[g] = (out[g] as number) + ratio / layers.length;
    });
  return out;
}

export interface Summary {
  readonly balance: Readonly<Record<SplitName, number>>;
  /** The worst layer's max/mean under that split: mean over windows, and the highest. */
  readonly meanWorst: number;
  readonly worst: number;
  readonly bound: number;
  readonly expertReplicasPerStep: number;
  readonly expertReplicas: number;
  readonly msMedian: number;
  readonly msMax: number;
}

/**
 * Means over the scored windows, and expert replicas per step without the first plan; worst figures under `split`. They are
 * NaN where nothing was scored.
 */
export function summarise(results: readonly WindowResult[], split: SplitName = "optimal"): Summary {
  const scored = results.filter((result) => result.next !== undefined);
  const mean = (pick: (result: WindowResult) => number): number =>
    scored.reduce((total, result) => total + pick(result), 0) / scored.length;
  const times = results
    .slice(1)
    .map((result) => result.ms)
    .sort((a, b) => a - b);
  const expertReplicas = results.reduce((total, result) => total + result.expertReplicas, 0);
  return {
    balance: {
      equal: mean((r) => r.next?.equal.balance ?? 1),
      fixed: mean((r) => r.next?.fixed.balance ?? 1),
      optimal: mean((r) => r.next?.optimal.balance ?? 1),
    },
    meanWorst: mean((r) => r.next?.[split].worst ?? 1),
    worst: scored.length > 0 ? Math.max(...scored.map((r) => r.next?.[split].worst ?? 1)) : Number.NaN,
    bound: mean((r) => r.bound ?? 1),
    expertReplicasPerStep: expertReplicas / Math.max(1, results.length - 1),
    expertReplicas,
    msMedian: times[Math.floor(times.length / 2)] ?? results[0]?.ms ?? 0,
    msMax: Math.max(0, ...times),
  };
}
