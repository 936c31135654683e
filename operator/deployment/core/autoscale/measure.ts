// The ranks that each metric asks for, by the HorizontalPodAutoscaler's rule: as many as bring the mean to its target. A rank that does not
// report makes a metric unknown, never smaller. Pure.
import type { Autoscale, AutoscaleMetricName } from "../../../../crds/autoscale.ts";
import type { RankSignals } from "../world.ts";
import { metrics } from "./metrics/index.ts";

export interface ServingRank {
  readonly rank: number;
  /** Undefined while the rank is silent. */
  readonly signals: RankSignals | undefined;
  /** Running and waiting requests; undefined while the rank is silent. */
  readonly activeRequests?: number | undefined;
}

export interface Measured {
  readonly name: AutoscaleMetricName;
  readonly value: number;
  readonly target: number;
  readonly ranks: number;
}

export type Measurement =
  | { readonly type: "measured"; readonly metrics: readonly Measured[] }
  /** Ranks with too short a history. */
  | { readonly type: "measuring"; readonly ranks: readonly number[] }
  /** Ranks that do not report this metric, or anything. */
  | { readonly type: "missing"; readonly ranks: readonly number[]; readonly metric: AutoscaleMetricName | undefined }
  | { readonly type: "nobody" };

/** A shorter mean says little of bursts. */
const spanMin = 10_000;
/** Relative distance from the target that changes nothing. */
const tolerance = 0.1;
/** Tolerance for the last bits of a sum. */
const rounding = 1e-9;

export function measure(spec: Autoscale, serving: readonly ServingRank[], replicas: number): Measurement {
  if (serving.length === 0) return { type: "nobody" };
  const silent = serving.filter(({ signals }) => signals === undefined);
  if (silent.length > 0) return { type: "missing", ranks: silent.map(({ rank }) => rank), metric: undefined };
  const heard = serving.flatMap(({ rank, signals }) => (signals ? [{ rank, signals }] : []));
  const fresh = heard.filter(({ signals }) => signals.spanMs < spanMin);
  if (fresh.length > 0) return { type: "measuring", ranks: fresh.map(({ rank }) => rank) };
  const found: Measured[] = [];
  for (const { name, target } of spec.metrics) {
    const { of } = metrics[name];
    const without = heard.filter(({ signals }) => !Number.isFinite(of(signals)));
    if (without.length > 0) return { type: "missing", ranks: without.map(({ rank }) => rank), metric: name };
    const total = heard.reduce((sum, { signals }) => sum + (of(signals) ?? 0), 0);
    found.push({ name, value: total / heard.length, target, ranks: asked(total, target, replicas) });
  }
  return { type: "measured", metrics: found };
}

/** The total counts, so that ranks that are still starting do not lower the result. */
function asked(total: number, target: number, replicas: number): number {
  if (Math.abs(total / (target * replicas) - 1) <= tolerance) return replicas;
  return Math.ceil(total / target - rounding);
}
