// Compares statuses without noise: load figures alone cause a write only once they move by a relevant step.

const steps: readonly (readonly [suffix: string, step: number])[] = [
  ["Percent", 5],
  ["Permille", 50],
];
/** Fields that only explain a verdict, and counts of the last window. */
const grounds: ReadonlySet<string> = new Set(["message", "numbers", "selections", "windows"]);

/** True where two statuses differ only in figures within a step. */
export function sayTheSame(before: unknown, after: unknown, field = ""): boolean {
  if (Object.is(before, after) || grounds.has(field)) return true;
  if (typeof before === "number" && typeof after === "number") return Math.abs(before - after) < stepOf(field);
  if (typeof before !== "object" || typeof after !== "object" || !before || !after) return false;
  const [old, now] = [before as Readonly<Record<string, unknown>>, after as Readonly<Record<string, unknown>>];
  return [...new Set([...Object.keys(old), ...Object.keys(now)])].every((key) => sayTheSame(old[key], now[key], key));
}

function stepOf(field: string): number {
  return steps.find(([suffix]) => field.endsWith(suffix))?.[1] ?? 0;
}
