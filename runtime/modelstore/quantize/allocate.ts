// The cheapest choice of a width for each expert within so many bytes: a multiple-choice knapsack, solved exactly.

export interface Choice {
  readonly bytes: number;
  readonly cost: number;
}

const gcd = (a: number, b: number): number => (b === 0 ? a : gcd(b, a % b));

/**
 * The index of each expert's choice: of all with at most `budget` bytes the least sum of costs, of equal ones the fewest bytes. Undefined
 * where no choice is so small. Dynamic programming over bytes above the smallest choices, in steps of their greatest common divisor.
 */
export function allocate(experts: readonly (readonly Choice[])[], budget: number): number[] | undefined {
  const least = experts.map((choices) => choices.reduce((min, { bytes }) => Math.min(min, bytes), Number.POSITIVE_INFINITY));
  const spare = budget - least.reduce((sum, bytes) => sum + bytes, 0);
  if (!(spare >= 0)) return undefined;
  const extra = experts.map((choices, i) => choices.map(({ bytes }) => bytes - (least[i] as number)));
  const step = extra.flat().reduce(gcd, 0) || 1;
  const most = extra.reduce((sum, each) => sum + Math.max(...each), 0);
  const steps = Math.floor(Math.min(spare, most) / step);
  let best = new Float64Array(steps + 1).fill(Number.POSITIVE_INFINITY);
  best[0] = 0;
  const chosen = experts.map((choices, i) => {
    const [next, own] = [new Float64Array(steps + 1).fill(Number.POSITIVE_INFINITY), new Uint8Array(steps + 1)];
    for (const [c, { cost }] of choices.entries()) {
      const more = (extra[i]?.[c] as number) / step;
      for (let at = more; at <= steps; at++) {
        const sum = (best[at - more] as number) + cost;
        if (sum >= (next[at] as number)) continue;
        next[at] = sum;
        own[at] = c;
      }
    }
    best = next;
    return own;
  });
  let at = best.indexOf(best.reduce((min, cost) => Math.min(min, cost), Number.POSITIVE_INFINITY));
  const result = new Array<number>(experts.length);
  for (let i = experts.length - 1; i >= 0; i--) {
    result[i] = chosen[i]?.[at] as number;
    at -= (extra[i]?.[result[i] as number] as number) / step;
  }
  return result;
}
