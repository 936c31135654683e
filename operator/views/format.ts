// Figures, times and lists for the CLI and the page. "-" stands for unknown, never for zero. Pure.

/** "40 s ago", "3 min ago", "5 h ago", "4 d ago". */
export const ago = (time: Date, now: Date): string => `${span(now.getTime() - time.getTime())} ago`;

/** Rounded down to one unit. */
export function span(ms: number): string {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 2 * 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 2 * 86_400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86_400)} d`;
}

/** The first `max`, then the number of the others. */
export function listed(names: readonly string[], max: number): string {
  const rest = names.length - max;
  return `${names.slice(0, max).join(", ")}${rest > 0 ? ` and ${rest} more` : ""}`;
}

const binaryUnits = ["B", "KiB", "MiB", "GiB", "TiB"] as const;

/** "1.50 GiB". */
export function bytes(count: number | undefined): string {
  if (count === undefined) return "-";
  const unit = Math.min(binaryUnits.length - 1, count < 1 ? 0 : Math.floor(Math.log2(count) / 10));
  const value = count / 1024 ** unit;
  return `${unit === 0 ? value : value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)} ${binaryUnits[unit]}`;
}

export const percent = (value: number | undefined): string => (value === undefined ? "-" : `${value}%`);

/** Three significant digits; integers as they are. */
export function figure(value: number | undefined): string {
  if (value === undefined) return "-";
  if (Number.isInteger(value) && Math.abs(value) < 1e9) return String(value);
  return String(Number(value.toPrecision(3)));
}

/** The sum of known values; undefined without any. */
export function sumOf(values: readonly (number | undefined)[]): number | undefined {
  const some = values.filter((value) => value !== undefined);
  return some.length === 0 ? undefined : some.reduce((a, b) => a + b, 0);
}
