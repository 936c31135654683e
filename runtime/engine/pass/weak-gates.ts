// Leaves out experts that their row hardly weighs, unless others attend to that row much (MC-MoE; ../DECISIONS.md 14). Pure.

/** A value so many times the mean magnitude of its row marks what others attend to most, such as a text's first token. */
const peakLeast = 60;

interface Chosen {
  readonly ids: Int32Array; // [n, topK]
  readonly gates: Float32Array; // [n, topK]
  readonly h: Float32Array; // [n, stride]
}

interface Sizes {
  readonly topK: number;
  readonly experts: number;
  readonly hidden: number;
  /** A part of a row's largest gate. */
  readonly percent: number;
}

/** Overwrites ids of weak pairs by that of no expert, and gates: what stays is scaled up to the same sum. Rows do not hang on each other. */
export function dropWeakGates({ ids, gates, h }: Chosen, { topK, experts, hidden, percent }: Sizes): void {
  const rows = ids.length / topK;
  const stride = h.length / rows;
  for (let row = 0; row < rows; row++) {
    const own = gates.subarray(row * topK, (row + 1) * topK);
    const named = ids.subarray(row * topK, (row + 1) * topK);
    // Free experts have added theirs already.
    const real = own.filter((_, k) => (named[k] as number) < experts);
    const [largest, sum] = [Math.max(...real), real.reduce((total, gate) => total + gate, 0)];
    const isWeak = (gate: number): boolean => gate < (percent / 100) * largest;
    if (!real.some(isWeak) || hasPeak(h.subarray(row * stride, row * stride + hidden))) continue;
    const scale = sum / real.reduce((total, gate) => (isWeak(gate) ? total : total + gate), 0);
    for (const [k, gate] of own.entries()) {
      if ((named[k] as number) >= experts) continue;
      own[k] = isWeak(gate) ? 0 : gate * scale;
      if (isWeak(gate)) named[k] = experts;
    }
  }
}

function hasPeak(row: Float32Array): boolean {
  let [peak, sum] = [0, 0];
  for (const value of row) {
    const size = Math.abs(value);
    if (size > peak) peak = size;
    sum += size;
  }
  return peak * row.length >= peakLeast * sum;
}
