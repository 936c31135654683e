// Sections of views, tables and lines as text of the terminal. Pure.
import Table from "cli-table3";
import { areFigures, type Fact, type Section, textOf } from "../views/section.ts";

const edges = ["top", "top-mid", "top-left", "top-right", "bottom", "bottom-mid", "bottom-left", "bottom-right"] as const;
const rules = ["left", "left-mid", "mid", "mid-mid", "right", "right-mid"] as const;
const borderless = Object.fromEntries([...edges, ...rules].map((name) => [name, ""]));

/** Two spaces between columns, no borders; numbers are right-aligned. */
export function table(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const drawn = new Table({
    head: [...header],
    chars: { ...borderless, middle: "  " },
    colAligns: header.map((_, column) => (areFigures(rows.map((row) => row[column] ?? "")) ? "right" : "left")),
    style: { head: [], border: [], "padding-left": 0, "padding-right": 0 },
  });
  drawn.push(...rows.map((row) => [...row]));
  return drawn.toString().replace(/ +$/gm, "");
}

/** What a command prints; a blank line stands beside tables and lists. */
export function sectionsText(sections: readonly Section[]): string {
  return sections.reduce((above, section, i) => {
    const before = sections[i - 1];
    const apart = before && before.kind !== "message" && [before, section].some(({ kind }) => kind === "table" || kind === "list");
    return before ? `${above}${apart || section.kind === "message" ? "\n\n" : "\n"}${sectionText(section)}` : sectionText(section);
  }, "");
}

function sectionText(section: Section): string {
  switch (section.kind) {
    case "message":
      return plainLine(textOf(section.value));
    case "list":
      return section.items.length === 0 ? section.none : section.items.map((item) => `  ${plainLine(textOf(item))}`).join("\n");
    case "facts":
      return factLines(section.facts).join("\n");
    case "table": {
      if (section.rows.length === 0) return section.none;
      const cells = section.rows.map((row) => row.map((value) => plainLine(textOf(value)) || "-"));
      const heads = section.heads.map((head) => head.toUpperCase());
      return [table(heads, cells), ...(section.more === undefined ? [] : [section.more])].join("\n");
    }
  }
}

const nameWidth = 10;

function factLines(facts: readonly Fact[]): string[] {
  const width = Math.max(nameWidth, ...facts.map(([name]) => name.length));
  return facts.map(([name, value]) => plainLine(`${name.toLowerCase().padEnd(width)} ${textOf(value)}`));
}

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
