// Gaps between the tokens of a stream beside which experts move now and then. Pure.

/** Milliseconds of one clock. */
export interface Period {
  readonly from: number;
  readonly to: number;
}

/** The gaps that touch none of the periods, and those that do. */
export function gapsBeside(at: readonly number[], periods: readonly Period[]): { readonly quiet: number[]; readonly disturbed: number[] } {
  const gaps = { quiet: [] as number[], disturbed: [] as number[] };
  for (const [i, to] of at.entries()) {
    const from = at[i - 1];
    if (from === undefined) continue;
    const touched = periods.some((period) => period.from < to && from < period.to);
    gaps[touched ? "disturbed" : "quiet"].push(to - from);
  }
  return gaps;
}

/** The value that 99 of 100 stay below. */
export const p99 = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[Math.floor(values.length * 0.99)] ?? 0;
