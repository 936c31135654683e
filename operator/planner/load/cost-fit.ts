// Non-negative least squares in three unknowns.

export type Vector = readonly number[];
/** A symmetric 3 x 3 matrix, by rows. */
export type Matrix = readonly number[];

const subsets: readonly (readonly number[])[] = [[0, 1, 2], [1, 2], [0, 2], [0, 1], [2], [1], [0]];
/** The ridge as a part of the diagonal: unknowns that always come together share their cost. */
const ridge = 1e-9;

/** The c >= 0 that minimises c' A c - 2 b' c; zeros where nothing is known. */
export function nonNegative(squares: Matrix, sides: Vector): Vector {
  const scale = [0, 1, 2].map((i) => Math.sqrt(squares[4 * i] ?? 0));
  const unit = (i: number): number => (scale[i] ?? 0) || 1;
  const a = squares.map((value, at) => value / unit(Math.floor(at / 3)) / unit(at % 3) + (at % 4 === 0 ? ridge : 0));
  const b = sides.map((value, i) => value / unit(i));
  let best: Vector = [0, 0, 0];
  let least = 0;
  for (const subset of subsets) {
    const x = solve(a, b, subset);
    if (x.some((value) => !(value >= 0))) continue;
    // At the minimum over a subset the objective is -b' x.
    const objective = -x.reduce((sum, value, i) => sum + value * (b[i] ?? 0), 0);
    if (objective >= least - 1e-12 * Math.abs(least)) continue;
    least = objective;
    best = x;
  }
  return best.map((value, i) => value / unit(i));
}

function solve(a: Matrix, b: Vector, subset: readonly number[]): number[] {
  const n = subset.length;
  const rows = subset.map((i) => [...subset.map((j) => a[3 * i + j] ?? 0), b[i] ?? 0]);
  for (let p = 0; p < n; p++) {
    const pivot = rows[p] as number[];
    for (const row of rows) {
      if (row === pivot) continue;
      const factor = (row[p] as number) / (pivot[p] as number);
      for (let j = p; j <= n; j++) row[j] = (row[j] as number) - factor * (pivot[j] as number);
    }
  }
  const x = [0, 0, 0];
  subset.forEach((i, p) => {
    x[i] = (rows[p]?.[n] ?? 0) / (rows[p]?.[p] ?? 1);
  });
  return x;
}
