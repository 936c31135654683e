// Gathers and scatters rows of (row, expert) pairs. It only copies, so no bit changes.

/** rows [n, width]; pair i = (row pairRows[i], expert pairExperts[i]). */
export interface Pairs {
  readonly rows: Float32Array;
  readonly pairRows: Uint32Array;
  readonly pairExperts: Uint32Array;
}

export function gatherRows(rows: Float32Array, width: number, indices: readonly number[]): Float32Array {
  const out = new Float32Array(indices.length * width);
  indices.forEach((index, i) => {
    out.set(rows.subarray(index * width, (index + 1) * width), i * width);
  });
  return out;
}

/** Row i of `rows` becomes row indices[i] of `out`. */
export function scatterRows(out: Float32Array, width: number, indices: readonly number[], rows: Float32Array): void {
  indices.forEach((index, i) => {
    out.set(rows.subarray(i * width, (i + 1) * width), index * width);
  });
}

/** The batch of these pairs (indices into it), with only the rows that they use. */
export function selectPairs({ rows, pairRows, pairExperts }: Pairs, width: number, pairs: readonly number[]): Pairs {
  const used = new Map<number, number>();
  for (const pair of pairs) {
    const row = pairRows[pair] as number;
    if (!used.has(row)) used.set(row, used.size);
  }
  return {
    rows: gatherRows(rows, width, [...used.keys()]),
    pairRows: Uint32Array.from(pairs, (pair) => used.get(pairRows[pair] as number) as number),
    pairExperts: Uint32Array.from(pairs, (pair) => pairExperts[pair] as number),
  };
}
