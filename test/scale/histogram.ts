// Histograms as Prometheus text has them: what was counted between two looks, and its quantiles. Pure.
import type { Sample } from "../../operator/views/prometheus-text.ts";

/** What a histogram has counted, by the upper bounds of its buckets in seconds. */
export type Histogram = ReadonlyMap<number, number>;

export function histogramOf(samples: readonly Sample[], name: string, labels: Readonly<Record<string, string>>): Histogram {
  const own = samples.filter(
    (one) => one.name === `${name}_bucket` && Object.entries(labels).every(([key, value]) => one.labels[key] === value),
  );
  const counts = new Map<number, number>();
  for (const { labels: at, value } of own) {
    const bound = Number((at.le ?? "").replace("+Inf", "Infinity"));
    counts.set(bound, (counts.get(bound) ?? 0) + value);
  }
  return new Map([...counts].sort(([a], [b]) => a - b));
}

/** What was counted between two looks. */
export const since = (before: Histogram, after: Histogram): Histogram =>
  new Map([...after].map(([bound, count]) => [bound, count - (before.get(bound) ?? 0)]));

export const countOf = (histogram: Histogram): number => histogram.get(Number.POSITIVE_INFINITY) ?? 0;

/** The quantile in seconds, by a straight line within its bucket as Prometheus reckons it; undefined where nothing was counted. */
export function quantile(histogram: Histogram, q: number): number | undefined {
  const wanted = countOf(histogram) * q;
  if (wanted === 0) return undefined;
  let [lower, below] = [0, 0];
  for (const [bound, count] of histogram) {
    if (count >= wanted) return bound === Number.POSITIVE_INFINITY ? lower : lower + ((bound - lower) * (wanted - below)) / (count - below);
    [lower, below] = [bound, count];
  }
  return lower;
}
