// The text of `enodia doctor`, failures first. Pure.
import { levels, type Outcome } from "./doctor/check.ts";
import { count, type Examined } from "./doctor/index.ts";
import { plainLine } from "./table.ts";

const marks: Readonly<Record<Outcome["level"], string>> = { fail: "FAIL", warn: "warn", skip: "skip", ok: "ok" };

export function doctorText(examined: readonly Examined[]): string {
  const rows = examined.flatMap(({ check, outcomes }) => outcomes.map((outcome) => ({ check, outcome })));
  const width = Math.max(0, ...rows.map(({ check }) => check.length));
  const lines = levels.flatMap((level) => rows.filter(({ outcome }) => outcome.level === level).flatMap((row) => rowLines(row, width)));
  const { fail, warn, skip, ok } = count(examined);
  return [...lines, "", `${fail} failed, ${warn} to look at, ${skip} not asked, ${ok} ok`].join("\n");
}

function rowLines({ check, outcome }: { readonly check: string; readonly outcome: Outcome }, width: number): string[] {
  const head = `${marks[outcome.level].padEnd(4)}  ${check.padEnd(width)}  `;
  const remedy = outcome.remedy === undefined ? [] : [`${" ".repeat(head.length)}do: ${outcome.remedy}`];
  return [`${head}${outcome.what}`, ...remedy].map(plainLine);
}
