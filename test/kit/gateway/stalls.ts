// The table of where the seconds of stalls went, from the metrics of gateways and workers before and after a fault: one row per fault,
// one column per part. Pure; who scrapes says what happened between.
import { frameStallParts, stallParts } from "../../../crds/names.ts";
import type { Sample } from "../kube/scrape.ts";

/** Samples by process. A process that was replaced by another of its name starts at 0 again. */
export type Scraped = ReadonlyMap<string, readonly Sample[]>;

interface Part {
  readonly count: number;
  readonly meanSeconds: number;
  /** The bound of the highest bucket that holds one. */
  readonly mostSeconds: number;
}

export interface StallRow {
  readonly fault: string;
  /** The longest wait of a client for a token. */
  readonly longestMs: number;
  readonly parts: ReadonlyMap<string, Part>;
}

const gateway = "enodia_gateway_stall_seconds";
const frames = "enodia_dispatch_stall_seconds";
const columns = [
  ...stallParts.map((part) => ({ title: part, metric: gateway, part })),
  ...frameStallParts.map((part) => ({ title: `frames: ${part}`, metric: frames, part })),
];

export function stallRow(fault: string, longestMs: number, before: Scraped, after: Scraped): StallRow {
  return { fault, longestMs, parts: new Map(columns.map(({ title, metric, part }) => [title, partOf(metric, part, before, after)])) };
}

function partOf(metric: string, part: string, before: Scraped, after: Scraped): Part {
  const grown = (name: string, le?: string): number => {
    const values = (samples: readonly Sample[]) =>
      samples
        .filter((one) => one.name === name && one.labels.part === part && one.labels.le === le)
        .reduce((all, { value }) => all + value, 0);
    const of = ([process, samples]: readonly [string, readonly Sample[]]): number => {
      const [was, is] = [values(before.get(process) ?? []), values(samples)];
      return is < was ? is : is - was;
    };
    return [...after].map(of).reduce((a, b) => a + b, 0);
  };
  const count = grown(`${metric}_count`);
  const bounds = new Set([...after.values()].flat().flatMap(({ name, labels }) => (name === `${metric}_bucket` ? (labels.le ?? []) : [])));
  const mostSeconds = Math.min(...[...bounds].filter((le) => grown(`${metric}_bucket`, le) >= count).map(toNumber));
  return { count, meanSeconds: count === 0 ? 0 : grown(`${metric}_sum`) / count, mostSeconds: count === 0 ? 0 : mostSeconds };
}

const toNumber = (le: string): number => (le === "+Inf" ? Number.POSITIVE_INFINITY : Number(le));

/** Lines for a test's output: mean and bound of each part in seconds, and how many there were. */
export function stallTable(rows: readonly StallRow[]): string {
  const cells = rows.map(({ fault, longestMs, parts }) => [
    fault,
    (longestMs / 1000).toFixed(2),
    ...columns.map(({ title }) => {
      const { count, meanSeconds, mostSeconds } = parts.get(title) ?? { count: 0, meanSeconds: 0, mostSeconds: 0 };
      return count === 0 ? "-" : `${meanSeconds.toFixed(2)} <=${mostSeconds} (${count})`;
    }),
  ]);
  const all = [["fault", "longest stall", ...columns.map(({ title }) => title)], ...cells];
  const widths = all[0]?.map((_, i) => Math.max(...all.map((line) => line[i]?.length ?? 0))) ?? [];
  return all.map((line) => `# ${line.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join("  ")}\n`).join("");
}
