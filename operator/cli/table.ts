// Plain tables and units of the terminal. Pure.
import Table from "cli-table3";

const edges = ["top", "top-mid", "top-left", "top-right", "bottom", "bottom-mid", "bottom-left", "bottom-right"] as const;
const rules = ["left", "left-mid", "mid", "mid-mid", "right", "right-mid"] as const;
const borderless = Object.fromEntries([...edges, ...rules].map((name) => [name, ""]));

/** Columns two spaces apart, without borders, as kubectl has them; columns of numbers are aligned right. */
export function table(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const isNumeric = (column: number): boolean => rows.length > 0 && rows.every((row) => /^[\d.,x%-]/.test(row[column] ?? ""));
  const drawn = new Table({
    head: [...header],
    chars: { ...borderless, middle: "  " },
    colAligns: header.map((_, column) => (isNumeric(column) ? "right" : "left")),
    style: { head: [], border: [], "padding-left": 0, "padding-right": 0 },
  });
  drawn.push(...rows.map((row) => [...row]));
  return drawn.toString().replace(/ +$/gm, "");
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
