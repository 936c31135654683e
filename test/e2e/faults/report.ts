// The table of a run of faults: by kind and of all together, how long until all was whole again, and the longest wait for a token. Pure.

export interface FaultRow {
  readonly kind: string;
  /** From the moment when the fault was over, or struck where it is but a moment, to the moment when everything was whole. */
  readonly recoveryMs: number;
  /** The longest wait of any client for a token since it struck. */
  readonly stallMs: number;
}

const nearestRank = (sorted: readonly number[], share: number): number => sorted[Math.ceil(sorted.length * share) - 1] ?? 0;
const seconds = (ms: number): string => (ms / 1000).toFixed(1);

function cells(kind: string, rows: readonly FaultRow[]): string[] {
  const of = (field: "recoveryMs" | "stallMs"): string[] => {
    const sorted = rows.map((row) => row[field]).sort((a, b) => a - b);
    return [nearestRank(sorted, 0.5), nearestRank(sorted, 0.95), sorted.at(-1) ?? 0].map(seconds);
  };
  return [kind, String(rows.length), ...of("recoveryMs"), ...of("stallMs")];
}

/** Markdown, in seconds. */
export function faultTable(rows: readonly FaultRow[]): string {
  const kinds = [...new Set(rows.map(({ kind }) => kind))].sort();
  const lines = [
    ["fault", "times", "whole again: p50", "p95", "max", "longest stall: p50", "p95", "max"],
    ["---", ...Array.from({ length: 7 }, () => "---:")],
    ...kinds.map((kind) =>
      cells(
        kind,
        rows.filter((row) => row.kind === kind),
      ),
    ),
    cells("all", rows),
  ];
  return lines.map((line) => `| ${line.join(" | ")} |\n`).join("");
}
