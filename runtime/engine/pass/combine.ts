// The sum of expert rows at their source: x = h + sum over k of gates[k] * y[k], in gate order and in f32 (part of the bit contract: the
// source does this, so the sum does not depend on which rank computed which row).

/** Values of a row of pairs, and of one that they are added to: the first `width` of its `stride`. */
interface RowWidths {
  readonly width: number;
  readonly stride: number;
}

/** h [n, stride], gates [n, topK], pairs [n * topK, width] in (row, k) order; the result is written over `h`. */
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

/** The pairs of a frame: which of its rows each is of, and its gate. */
interface Weighed {
  readonly pairRows: Uint32Array;
  readonly gates: Float32Array;
}

/** The sums of a frame's pairs [pairs, width] by their gates, [rows, width], in the order of its pairs. */
export function sumPairs(pairs: Float32Array, { pairRows, gates }: Weighed, rows: number, width: number): Float32Array {
  const sums = new Float32Array(rows * width);
  for (let pair = 0; pair < pairRows.length; pair++) {
    const gate = gates[pair] as number;
    const to = (pairRows[pair] as number) * width;
    for (let j = 0; j < width; j++) sums[to + j] = (sums[to + j] as number) + Math.fround(gate * (pairs[pair * width + j] as number));
  }
  return sums;
}

/** A layer's gates and rows of pairs, as `combine` takes them. */
interface Combined {
  readonly gates: Float32Array;
  readonly pairs: Float32Array;
}

/** The pairs of a frame: their places in the layer, and which row of the frame each is of. */
interface Placed {
  readonly at: readonly number[];
  readonly pairRows: Uint32Array;
}

/** Puts sums where the rows of their pairs would be: at the first pair of each row, whose gate is 1 from then on. The rows of its other
 *  pairs stay as they are, which has to be 0. */
export function placeSums({ gates, pairs }: Combined, { at, pairRows }: Placed, sums: Float32Array, width: number): void {
  let next = 0;
  for (const [i, place] of at.entries()) {
    if (pairRows[i] !== next) continue;
    gates[place] = 1;
    pairs.set(sums.subarray(next * width, (next + 1) * width), place * width);
    next += 1;
  }
}

/** Pairs of one layer that go to the same place: indices into (row, k) order. */
export interface Group {
  readonly key: number;
  readonly pairs: number[];
}

/** Groups pair indices by a key (expert, rank), in order of first appearance. */
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
