// The linear assignment problem: every row gets its own column at least total cost. Shortest augmenting paths, O(n^3).
// Pure.

type Cost = (row: number, column: number) => number;

interface Duals {
  readonly n: number;
  readonly cost: Cost;
  readonly u: Float64Array;
  readonly v: Float64Array;
  /** 1-based row of each column, 0 = free. */
  readonly rowOf: Int32Array;
  readonly way: Int32Array;
}

/** cost(row, column) for n rows and n columns; returns the column of each row. */
export function assign(n: number, cost: Cost): Int32Array {
  const duals: Duals = {
    n,
    cost,
    u: new Float64Array(n + 1),
    v: new Float64Array(n + 1),
    rowOf: new Int32Array(n + 1),
    way: new Int32Array(n + 1),
  };
  const { rowOf, way } = duals;
  for (let row = 1; row <= n; row++) {
    rowOf[0] = row;
    let column = freeColumn(duals);
    while (column !== 0) {
      const before = way[column] as number;
      rowOf[column] = rowOf[before] as number;
      column = before;
    }
  }
  const columnOf = new Int32Array(n);
  for (let j = 1; j <= n; j++) columnOf[(rowOf[j] as number) - 1] = j - 1;
  return columnOf;
}

/** End of the shortest augmenting path from the row in column 0; `way` leads back. */
function freeColumn(duals: Duals): number {
  const least = new Float64Array(duals.n + 1).fill(Number.POSITIVE_INFINITY);
  const used = new Uint8Array(duals.n + 1);
  let column = 0;
  do {
    used[column] = 1;
    const { next, delta } = nearest(duals, column, least, used);
    shift(duals, delta, least, used);
    column = next;
  } while (duals.rowOf[column] !== 0);
  return column;
}

function nearest(
  { n, cost, u, v, rowOf, way }: Duals,
  column: number,
  least: Float64Array,
  used: Uint8Array,
): { next: number; delta: number } {
  const at = rowOf[column] as number;
  let delta = Number.POSITIVE_INFINITY;
  let next = 0;
  for (let j = 1; j <= n; j++) {
    if (used[j] === 1) continue;
    const reduced = cost(at - 1, j - 1) - (u[at] as number) - (v[j] as number);
    if (reduced < (least[j] as number)) {
      least[j] = reduced;
      way[j] = column;
    }
    if ((least[j] as number) < delta) {
      delta = least[j] as number;
      next = j;
    }
  }
  return { next, delta };
}

function shift({ n, u, v, rowOf }: Duals, delta: number, least: Float64Array, used: Uint8Array): void {
  for (let j = 0; j <= n; j++) {
    if (used[j] === 1) {
      const r = rowOf[j] as number;
      u[r] = (u[r] as number) + delta;
      v[j] = (v[j] as number) - delta;
    } else least[j] = (least[j] as number) - delta;
  }
}
