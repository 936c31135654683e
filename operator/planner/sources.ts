// Which rank's tokens choose an expert, and so which rows leave their rank. A source takes its own replica first
// (runtime/worker/near-routing.ts), so weights decide what stays. Pure.
import { weightsTotal } from "../../crds/plan.ts";
import { imbalance, sum } from "../../runtime/placement/imbalance.ts";
import { quotas, splitLayer } from "../../runtime/placement/split.ts";
import { evenEnoughOf, type PlanInput } from "./policy.ts";

/** Of the planner's problem (problem.ts) what counts here. */
interface Problem {
  readonly G: number;
  readonly E: number;
  readonly speed: Float64Array;
  readonly sources: readonly Float32Array[] | undefined;
  readonly input: PlanInput;
}
/** Rank indexes by expert. */
type LayerHosts = readonly (readonly number[])[];

/** A layer whose rows all leave takes longer than one whose rows all stay by this part, on loopback even more: DECISIONS.md 11. */
export const wirePrice = 0.5;
const rounding = 1 / weightsTotal;
/** Ranks whose counts differ less choose alike: so much depends on where windows are cut. */
const alikeWithin = 0.1;
const parts = [1, 0.75, 0.5, 0.25] as const;

/** Rows of one expert by the rank whose tokens choose it, [ranks]; alike where nobody told. */
export function sourceRows(problem: Problem, layer: number, expert: number, out = new Float64Array(problem.G)): Float64Array {
  const { G, E, sources, input } = problem;
  const cell = layer * E + expert;
  const rows = input.load[cell] ?? 0;
  for (let g = 0; g < G; g++) out[g] = sources?.[g]?.[cell] ?? 0;
  const all = sum(out);
  let isAlike = true;
  for (let g = 0; g < G && isAlike; g++) isAlike = Math.abs((out[g] as number) * G - all) <= alikeWithin * all;
  for (let g = 0; g < G; g++) out[g] = isAlike ? rows / G : (rows * (out[g] as number)) / all;
  return out;
}

/** Rows of the forecast for a selection that was counted. */
export function rowsPerCount({ E, sources, input }: Problem, layer: number, expert: number): number {
  const cell = layer * E + expert;
  const told = sources?.reduce((all, counts) => all + (counts[cell] ?? 0), 0) ?? 0;
  return told > 0 ? (input.load[cell] ?? 0) / told : 0;
}

/** Adds to `load` what each host computes of one expert, and returns the rows that leave their rank. */
export function addRows(load: Float64Array, source: Float64Array, hosts: readonly number[], weights: readonly number[]): number {
  const even = 1 / source.length;
  const total = sum(weights) || 1;
  const spare = hosts.map((_, i) => Math.max(0, (weights[i] ?? 0) / total - even));
  const allSpare = sum(spare);
  let away = sum(source);
  for (const [i, g] of hosts.entries()) {
    const weight = (weights[i] ?? 0) / total;
    const kept = (source[g] as number) * (weight > even - rounding ? 1 : weight / even);
    load[g] = (load[g] as number) + kept;
    away -= kept;
  }
  for (const [i, g] of hosts.entries())
    load[g] = (load[g] as number) + away * (allSpare > 0 ? (spare[i] as number) / allSpare : 1 / hosts.length);
  return Math.max(0, away);
}

export interface LayerRows {
  /** [ranks] */
  readonly load: Float64Array;
  /** Rows that leave their rank. */
  readonly away: number;
}

export function layerRows(problem: Problem, layer: number, hosts: LayerHosts, weights: readonly (readonly number[])[]): LayerRows {
  const [load, source] = [new Float64Array(problem.G), new Float64Array(problem.G)];
  let away = 0;
  hosts.forEach((row, e) => {
    if (row.length > 0) away += addRows(load, sourceRows(problem, layer, e, source), row, weights[e] ?? []);
  });
  return { load, away };
}

/**
 * Rows of each expert for its hosts that keep as many at home as evenness allows: from those of the water-filling `plain` towards hosts
 * that compute all of their own.
 */
export function nearRows(problem: Problem, layer: number, hosts: LayerHosts, plain: readonly (readonly number[])[]): readonly number[][] {
  const { G, speed } = problem;
  const own = hosts.map((row, e) => {
    const source = sourceRows(problem, layer, e);
    return row.map((g) => (row.length > 1 ? (source[g] as number) : 0));
  });
  const base = new Float64Array(G);
  for (const [e, row] of hosts.entries()) for (const [i, g] of row.entries()) base[g] = (base[g] as number) + (own[e]?.[i] ?? 0);
  const rest = own.map((rows, e) => Math.max(0, sum(plain[e] ?? []) - sum(rows)));
  const { rows } = splitLayer({
    demand: [...rest, ...base],
    hosts: [...hosts, ...Array.from(base, (_, g) => [g])],
    speed,
  });
  const between = (part: number): number[][] =>
    plain.map((row, e) => row.map((was, i) => was + part * ((rows[e]?.[i] ?? 0) + (own[e]?.[i] ?? 0) - was)));
  const worst = (split: readonly (readonly number[])[]): number => {
    const load = new Float64Array(G);
    for (const [e, row] of hosts.entries()) for (const [i, g] of row.entries()) load[g] = (load[g] as number) + (split[e]?.[i] ?? 0);
    return imbalance(load, speed);
  };
  const most = Math.max(worst(plain), evenEnoughOf(problem.input));
  const found = parts.map(between).find((split) => worst(split) <= most + 1e-9);
  return found ?? between(0);
}

/** The weights by which sources that take their own replica first bring so many rows to each host. */
export function weightsFor(rows: readonly number[], source: Float64Array, hosts: readonly number[]): number[] {
  const even = 1 / source.length;
  const own = hosts.map((g) => source[g] as number);
  const sheds = rows.map((wanted, i) => wanted < (own[i] as number) * (1 - 1e-6));
  const least = rows.map((wanted, i) => (sheds[i] ? (even * wanted) / (own[i] as number) : even));
  const more = rows.map((wanted, i) => (sheds[i] ? 0 : Math.max(0, wanted - (own[i] as number))));
  const all = sum(more);
  const left = Math.max(0, 1 - sum(least));
  return quotas(least.map((part, i) => part + left * (all > 0 ? (more[i] as number) / all : sheds[i] ? 0 : 1 / rows.length)));
}
