// The parts of a status that are figures of the load: they are different in every window, and a status is not written for them alone
// before they have moved by a step that somebody would act on. Pure.

/** Figures in percent of something, and in a thousandth, that count as the same within so much. */
const steps: readonly (readonly [suffix: string, step: number])[] = [
  ["Percent", 5],
  ["Permille", 50],
];
/** Texts and numbers that only tell what a verdict was reached by, and counts of the last window. */
const grounds: ReadonlySet<string> = new Set(["message", "numbers", "selections", "windows"]);

/** True where two statuses say the same but for figures within a step. */
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
