// The ranks that the load asks for, metric by metric, by the rule of Kubernetes' own autoscaler: as many as would bring the mean to its
// target. A rank that does not report makes the figure unknown, never smaller. Pure.
import type { Autoscale, AutoscaleMetricName } from "../../../../crds/autoscale.ts";
import type { RankSignals } from "../world.ts";
import { metrics } from "./metrics/index.ts";

/** A rank that serves. */
export interface ServingRank {
  readonly rank: number;
  /** Undefined where nothing is heard of it. */
  readonly signals: RankSignals | undefined;
  /** Requests that it computes or that wait at it; undefined where nothing is heard of it. */
  readonly activeRequests?: number | undefined;
}

export interface Measured {
  readonly name: AutoscaleMetricName;
  /** The mean of the ranks. */
  readonly value: number;
  readonly target: number;
  /** Ranks that it asks for, at least none. */
  readonly ranks: number;
}

export type Measurement =
  | { readonly type: "measured"; readonly metrics: readonly Measured[] }
  /** Ranks that were heard for too short a time. */
  | { readonly type: "measuring"; readonly ranks: readonly number[] }
  /** Ranks that do not report a metric, or nothing at all. */
  | { readonly type: "missing"; readonly ranks: readonly number[]; readonly metric: AutoscaleMetricName | undefined }
  | { readonly type: "nobody" };

/** A mean over less says little of a load that comes in bursts. */
const spanMin = 10_000;
/** Load so near the target changes nothing. */
const tolerance = 0.1;
/** Sums of fractions that come to a whole number but for their last bits. */
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

/** Total load is what counts, so that ranks that only start do not make what is there seem too little. */
function asked(total: number, target: number, replicas: number): number {
  if (Math.abs(total / (target * replicas) - 1) <= tolerance) return replicas;
  return Math.ceil(total / target - rounding);
}
