// route: softmax over router logits and the top-k experts.
import { floats, gradientOf, ints, type Kernel, type KernelCase, kernelCase, matrix, type Shares } from "./kernel.ts";
import { randomTensor } from "./random.ts";

/**
 * ids[n, topK] i32 by descending gate, ties as in DECISIONS.md 3; gates[n, topK] = softmax(logits) at ids, renormalised to sum 1 if
 * `normalize`.
 */
interface Route {
  readonly op: "route";
  readonly logits: string;
  readonly topK: number;
  readonly normalize: boolean;
  readonly ids: string;
  readonly gates: string;
}

/** Indices of the k largest, descending. NaN sorts last. */
export function topK(values: Float32Array | Float64Array, k: number): number[] {
  const ids: number[] = [];
  const keys: number[] = [];
  for (let i = 0; i < values.length; i++) {
    const value = values[i] as number;
    const key = Number.isNaN(value) ? Number.NEGATIVE_INFINITY : value;
    if (ids.length === k && !(key > (keys[k - 1] as number))) continue;
    if (ids.length === k) keys.length = ids.length = k - 1;
    let at = ids.length;
    while (at > 0 && key > (keys[at - 1] as number)) at -= 1;
    ids.splice(at, 0, i);
    keys.splice(at, 0, key);
  }
  return ids;
}

/** Computes in f64. */
export function softmax(logits: Float32Array): Float64Array {
  let max = Number.NEGATIVE_INFINITY;
  for (const logit of logits) max = Math.max(max, logit);
  const e = new Float64Array(logits.length);
  let sum = 0;
  for (let i = 0; i < e.length; i++) sum += e[i] = Math.exp((logits[i] as number) - max);
  for (let i = 0; i < e.length; i++) e[i] = (e[i] as number) / sum;
  return e;
}

export function softmaxShares(logits: Float32Array): Shares {
  const values = softmax(logits);
  return {
    values,
    gradient(dShares) {
      const mean = values.reduce((sum, value, i) => sum + value * (dShares[i] as number), 0);
      return values.map((value, i) => value * ((dShares[i] as number) - mean));
    },
  };
}

const sized = (rows: number, experts: number, k: number, normalize = true): KernelCase<Route> =>
  kernelCase(route, {
    name: `${rows} rows, top ${k} of ${experts}${normalize ? "" : ", not normalised"}`,
    op: { op: "route", logits: "logits", topK: k, normalize, ids: "ids", gates: "gates" },
    inputs: { logits: randomTensor(11, [rows, experts], 2) },
  });

function ties(): KernelCase<Route> {
  const experts = 8;
  const data = Float32Array.from({ length: 3 * experts }, (_, i) => (i < experts ? 0.25 : i < 2 * experts ? i % 4 : -(i >> 1)));
  return {
    ...sized(3, experts, 3),
    name: "ties go to the lowest expert id",
    byOrder: ["ids"],
    inputs: { logits: { shape: [3, experts], data } },
  };
}

export const route: Kernel<Route> = {
  name: "route",
  gateLogits: (op) => op.logits,
  shares: (_, logits) => softmaxShares(logits),
  reads: (op) => [op.logits],
  outputs: (op) => [
    { name: op.ids, dtype: "i32", width: () => op.topK },
    { name: op.gates, dtype: "f32", width: () => op.topK },
  ],
  tolerance: 2e-6,
  forward(op, context) {
    const logits = context.read(op.logits);
    const { rows, width } = matrix(logits);
    const ids = new Int32Array(rows * op.topK);
    const gates = new Float32Array(rows * op.topK);
    for (let n = 0; n < rows; n++) {
      const row = floats(logits).subarray(n * width, (n + 1) * width);
      const p = softmax(row);
      const chosen = topK(row, op.topK);
      const sum = op.normalize ? chosen.reduce((total, id) => total + (p[id] as number), 0) : 1;
      for (const [k, id] of chosen.entries()) {
        ids[n * op.topK + k] = id;
        gates[n * op.topK + k] = (p[id] as number) / sum;
      }
    }
    return { [op.ids]: { shape: [rows, op.topK], data: ids }, [op.gates]: { shape: [rows, op.topK], data: gates } };
  },
  /** The choice is constant; gates are a softmax over the chosen logits (normalised) or over all. */
  backward(op, context, outputs) {
    const logits = context.read(op.logits);
    const { rows, width } = matrix(logits);
    const written = route.forward(op, context);
    const ids = ints(written[op.ids] as (typeof written)[string]);
    const gates = floats(written[op.gates] as (typeof written)[string]);
    const dGates = gradientOf(outputs, op.gates);
    const dLogits = new Float32Array(rows * width);
    for (let n = 0; n < rows; n++) {
      let dot = 0;
      for (let k = n * op.topK; k < (n + 1) * op.topK; k++) dot += (dGates[k] as number) * (gates[k] as number);
      if (!op.normalize) {
        const p = softmax(floats(logits).subarray(n * width, (n + 1) * width));
        for (let e = 0; e < width; e++) dLogits[n * width + e] = -(p[e] as number) * dot;
      }
      for (let k = n * op.topK; k < (n + 1) * op.topK; k++) {
        const at = n * width + (ids[k] as number);
        const own = (gates[k] as number) * ((dGates[k] as number) - (op.normalize ? dot : 0));
        dLogits[at] = (dLogits[at] as number) + own;
      }
    }
    return { [op.logits]: dLogits };
  },
  cases: () => [sized(1, 1, 1), sized(3, 8, 2), sized(65, 64, 8), sized(2, 65, 65), sized(5, 8, 2, false), ties()],
};
