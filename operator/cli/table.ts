// Plain tables and lines of the terminal. Pure.
import Table from "cli-table3";

const edges = ["top", "top-mid", "top-left", "top-right", "bottom", "bottom-mid", "bottom-left", "bottom-right"] as const;
const rules = ["left", "left-mid", "mid", "mid-mid", "right", "right-mid"] as const;
const borderless = Object.fromEntries([...edges, ...rules].map((name) => [name, ""]));

/** Two spaces between columns, no borders; numbers are right-aligned. */
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

/** Cells of foreign text become one line. */
export type Column<R> = readonly [head: string, of: (row: R) => string];

export const tableOf = <R>(columns: readonly Column<R>[], rows: readonly R[]): string =>
  table(
    columns.map(([head]) => head),
    rows.map((row) => columns.map(([, of]) => plainLine(of(row)))),
  );

export type Fact = readonly [name: string, value: string | undefined];

/** A line for each fact that is known; one without a name goes on with the one before. */
export const factLines = (facts: readonly Fact[], width = 10): string[] =>
  facts.flatMap(([name, value]) => (value === undefined ? [] : [`${name.padEnd(width)} ${value}`]));

/** A foreign text as one line: control characters become spaces. */
export const plainLine = (text: string): string => text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, " ");

/** Breaks between words at `columns`; later lines have `indent` blanks. Longer words, and the first two, stay whole. */
export function wrapped(text: string, columns: number, indent: number): string[] {
  const [first = "", ...others] = text.match(/\s*\S+/g) ?? [];
  const lines: string[] = [];
  let line = first;
  for (const word of others) {
    if (line === first || line.length + word.length <= columns) line += word;
    else {
      lines.push(line);
      line = " ".repeat(indent) + word.trimStart();
    }
  }
  return [...lines, line];
}
