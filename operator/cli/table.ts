// Plain text tables and units for the terminal. Pure.

/** Columns padded to their widest cell, two spaces apart; cells that look like numbers are aligned right. */
export function table(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const all = [header, ...rows];
  const widths = header.map((_, column) => Math.max(...all.map((row) => (row[column] ?? "").length)));
  const right = header.map((_, column) => rows.length > 0 && rows.every((row) => /^[\d.,x%-]/.test(row[column] ?? "")));
  return all
    .map((row) =>
      row
        .map((cell, column) => (right[column] ? cell.padStart(widths[column] ?? 0) : cell.padEnd(widths[column] ?? 0)))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}

/** A text of somebody else's as one line: whatever steers a terminal becomes a space. */
export const plainLine = (text: string): string => text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, " ");

const binaryUnits = ["B", "KiB", "MiB", "GiB", "TiB"];

/** "1.50 GiB"; "-" for what is not known. */
export function bytes(count: number | undefined): string {
  if (count === undefined) return "-";
  let value = count;
  let unit = 0;
  while (value >= 1024 && unit < binaryUnits.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)} ${binaryUnits[unit]}`;
}

export function percent(value: number | undefined): string {
  return value === undefined ? "-" : `${value}%`;
}
