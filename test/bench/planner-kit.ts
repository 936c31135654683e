// The common parts of the planner benchmark: traces by seed, in-sample scores, medians. No figures of its own.

import type { PolicyName } from "../../crds/names.ts";
import type { LayerPlan } from "../../crds/plan.ts";
import { gainPerMove } from "../../operator/planner/defaults.ts";
import { policies } from "../../operator/planner/index.ts";
import { movesDefault } from "../../operator/planner/load/timing.ts";
import { rankSpecs, type SimulateOptions, type Summary, simulate, summarise } from "../../operator/planner/offline/simulate.ts";
import { type Trace, windowOf } from "../../operator/planner/offline/traces.ts";
import { drawSelections, generateTrace, type PresetName, presets } from "../../operator/planner/offline/traces-generate.ts";
import type { PlanInput } from "../../operator/planner/policy.ts";
import { seeded } from "../../operator/planner/random.ts";
import { imbalance } from "../../runtime/placement/imbalance.ts";
import { splitEqually, splitLayer } from "../../runtime/placement/split.ts";
import { modelShape, planInput } from "../kit/planner/plan-input.ts";

export interface Row {
  readonly row: string;
  readonly seed?: number;
  readonly what: string;
  readonly measured: string;
  readonly required: string;
  readonly ok: boolean | "-";
}

/** A row that has no name yet. */
export type Cells = readonly [what: string, measured: string, required: string, ok: Row["ok"]];

/** 12 transitions. */
const windows = 13;
/** The traces of --seed 1; others are thousands away. */
const firstSeeds: Readonly<Record<PresetName, number>> = {
  dsv3_drift: 101,
  dsv3_burst: 102,
  qwen3_48x128: 103,
  qwen3_94x128: 104,
  mixtral_32x8: 105,
};
const made = new Map<string, Trace>();

export const seedOf = (name: PresetName, seed: number): number => firstSeeds[name] + 1000 * (seed - 1);

export function traceOf(name: PresetName, seed: number): Trace {
  const key = `${name} ${seed}`;
  const known = made.get(key);
  if (known) return known;
  const trace = generateTrace(name, { ...presets[name], windows }, seedOf(name, seed));
  made.set(key, trace);
  return trace;
}

/** Traces of a seed that is done with. */
export function forgetTraces(): void {
  made.clear();
}

/** The settings with which a cluster plans: weights that hold until the next plan, its least gain per expert replica, its noise, its budget. */
export const asOnCluster = {
  fixedWeights: true,
  noise: "cluster",
  gainPerMove,
  budgetExpertReplicas: movesDefault,
} as const;

export async function simulated(name: PolicyName, options: Omit<SimulateOptions, "policy" | "now">): Promise<Summary> {
  return summarise(
    await simulate({ ...options, policy: policies[name], now: () => performance.now() }),
    options.split === "equal" ? "equal" : "optimal",
  );
}

export interface Cluster {
  readonly ranks: number;
  readonly slots?: number;
  readonly slotsTotal?: number;
  readonly speeds?: readonly number[];
}

export function inputOf(trace: Trace, window: number, cluster: Cluster, more: Partial<PlanInput> = {}): PlanInput {
  return planInput(modelShape(trace.layers, trace.experts), rankSpecs(cluster), {
    load: Float64Array.from(windowOf(trace, window)),
    ...(cluster.slots === undefined ? {} : { slotsPerRank: cluster.slots }),
    ...more,
  });
}

/** max/mean of each layer of a window under a plan. */
export function ratios(
  trace: Trace,
  window: number,
  cluster: Cluster,
  layers: readonly LayerPlan[],
  split: "weighted" | "equal" = "weighted",
): number[] {
  const speed = Float64Array.from(rankSpecs(cluster), (rank) => rank.speed);
  return layers.map((layer, l) => {
    const demand = windowOf(trace, window).subarray(l * trace.experts, (l + 1) * trace.experts);
    return imbalance((split === "equal" ? splitEqually : splitLayer)({ demand, hosts: layer.hosts, speed }).load, speed);
  });
}

/** Mean over layers of mean/max. */
export function balance(values: readonly number[]): number {
  return values.reduce((total, ratio) => total + 1 / ratio, 0) / values.length;
}

export function quantile(values: readonly number[], q: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? 0;
}

export const median = (values: readonly number[]): number => quantile(values, 0.5);
export const fixed = (value: number, digits = 4): string => value.toFixed(digits);

/** Windows drawn from one distribution, so every change is noise. `shares` is [layers * experts]. */
export function stationaryTrace(
  shares: { readonly layers: number; readonly experts: number; readonly load: ArrayLike<number> },
  windows: number,
  selections: number,
  seed: number,
): Trace {
  const { layers, experts, load } = shares;
  const cells = layers * experts;
  const random = seeded(seed);
  const counts = new Uint32Array(windows * cells);
  for (let t = 0; t < windows; t++) {
    for (let l = 0; l < layers; l++) {
      const p = Float64Array.from({ length: experts }, (_, e) => load[l * experts + e] as number);
      const all = p.reduce((a, b) => a + b, 0);
      drawSelections(all > 0 ? p.map((x) => x / all) : p.fill(1 / experts), selections, random, counts.subarray(t * cells + l * experts));
    }
  }
  return { name: "stationary", windows, layers, experts, counts };
}
