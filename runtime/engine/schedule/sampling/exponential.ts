// e^x for x of at most 0, several times as fast as Math.exp over a vocabulary and right to 1e-14: a power of 2^(1/64) from two tables times
// a short series.

/** Parts of a power of two. */
const parts = 64;
/** Powers of two down to the smallest number there is, and the parts between two of them. */
const powers = Float64Array.from({ length: 1_076 }, (_, k) => 2 ** -k);
const fractions = Float64Array.from({ length: parts }, (_, k) => 2 ** (-k / parts));
const perPart = -parts * Math.LOG2E;
const part = Math.LN2 / parts;
const wholesMax = 1_075 * parts;

export function expOf(x: number): number {
  const y = x * perPart;
  if (!(y < wholesMax)) return 0;
  const whole = y | 0;
  const r = (whole - y) * part; // from -0.011 to 0
  const series = 1 + r * (1 + r * (1 / 2 + r * (1 / 6 + r * (1 / 24 + r / 120))));
  return series * (fractions[whole & 63] as number) * (powers[whole >> 6] as number);
}
