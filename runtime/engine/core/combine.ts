// The sum of expert rows at their source: x = h + sum over k of gates[k] * y[k], in gate order and in f32 (part of the bit
// contract: the source does this, so the sum does not depend on which rank computed which row). Pure.

/** h [n, width], gates [n, topK], pairs [n * topK, width] in (row, k) order; the result is written over `h`. */
export function combine(h: Float32Array, gates: Float32Array, pairs: Float32Array, width: number): Float32Array {
  const rows = h.length / width;
  const topK = rows === 0 ? 0 : gates.length / rows;
  for (let row = 0; row < rows; row++) {
    for (let k = 0; k < topK; k++) {
      const gate = gates[row * topK + k] as number;
      const from = (row * topK + k) * width;
      const to = row * width;
      for (let j = 0; j < width; j++) h[to + j] = (h[to + j] as number) + Math.fround(gate * (pairs[from + j] as number));
    }
  }
  return h;
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
