// e^x for x <= 0 with an error of 1e-14, several times as fast as Math.exp: two tables and a short series.

const parts = 64;
/** Powers of two down to the smallest number, and the steps between two of them. */
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
