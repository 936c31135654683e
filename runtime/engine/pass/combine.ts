// Sums expert rows at their source, in gate order and in f32 (../DECISIONS.md 3).

interface RowWidths {
  readonly width: number;
  readonly stride: number;
}

/** x = h + sum over k of gates[k] * y[k]. h [n, stride], gates [n, topK], pairs [n * topK, width] in (row, k) order; overwrites `h`. */
export function combine(h: Float32Array, gates: Float32Array, pairs: Float32Array, { width, stride }: RowWidths): Float32Array {
  const rows = h.length / stride;
  const topK = rows === 0 ? 0 : gates.length / rows;
  for (let row = 0; row < rows; row++) {
    for (let k = 0; k < topK; k++) {
      const gate = gates[row * topK + k] as number;
      const from = (row * topK + k) * width;
      const to = row * stride;
      for (let j = 0; j < width; j++) h[to + j] = (h[to + j] as number) + Math.fround(gate * (pairs[from + j] as number));
    }
  }
  return h;
}

interface Weighed {
  readonly pairRows: Uint32Array;
  readonly gates: Float32Array;
}

/** Gated sums of a frame's pairs [pairs, width] -> [rows, width], in the order of the pairs. */
export function sumPairs(pairs: Float32Array, { pairRows, gates }: Weighed, rows: number, width: number): Float32Array {
  const sums = new Float32Array(rows * width);
  for (let pair = 0; pair < pairRows.length; pair++) {
    const gate = gates[pair] as number;
    const to = (pairRows[pair] as number) * width;
    for (let j = 0; j < width; j++) sums[to + j] = (sums[to + j] as number) + Math.fround(gate * (pairs[pair * width + j] as number));
  }
  return sums;
}

interface Combined {
  readonly gates: Float32Array;
  readonly pairs: Float32Array;
}

interface Placed {
  readonly at: readonly number[];
  readonly pairRows: Uint32Array;
}

/** Puts each sum at the first pair of its row and sets that gate to 1. The rows of its other pairs must be 0. */
export function placeSums({ gates, pairs }: Combined, { at, pairRows }: Placed, sums: Float32Array, width: number): void {
  let next = 0;
  for (const [i, place] of at.entries()) {
    if (pairRows[i] !== next) continue;
    gates[place] = 1;
    pairs.set(sums.subarray(next * width, (next + 1) * width), place * width);
    next += 1;
  }
}

/** Pairs of one layer with the same destination: indices in (row, k) order. */
export interface Group {
  readonly key: number;
  readonly pairs: number[];
}

export function groupPairs(count: number, keyOf: (pair: number) => number): Group[] {
  const groups = new Map<number, Group>();
  for (let pair = 0; pair < count; pair++) {
    const key = keyOf(pair);
    const group = groups.get(key);
    if (group) group.pairs.push(pair);
    else groups.set(key, { key, pairs: [pair] });
  }
  return [...groups.values()];
}
