// candidates: the largest logits of a row, and the largest one's probability at two sharpnesses.
import { floats, gradientOf, ints, type Kernel, type KernelCase, kernelCase, matrix } from "./kernel.ts";
import { randomTensor } from "./random.ts";
import { topK } from "./route.ts";

/**
 * The `count` largest logits of a row, descending, ties in any order: ids[n, count] i32 and values[n, count]. shares[n, 2] =
 * softmax(logits) and softmax(sharpness[n] * logits) at the first of them.
 */
interface Candidates {
  readonly op: "candidates";
  readonly logits: string;
  readonly sharpness: string;
  readonly count: number;
  readonly ids: string;
  readonly values: string;
  readonly shares: string;
}

const sized = (rows: number, vocab: number, count: number): KernelCase<Candidates> =>
  kernelCase(candidates, {
    name: `${rows} rows, ${count} of ${vocab}`,
    op: { op: "candidates", logits: "logits", sharpness: "sharpness", count, ids: "ids", values: "values", shares: "shares" },
    inputs: {
      logits: randomTensor(71, [rows, vocab], 3),
      sharpness: { shape: [rows, 1], data: Float32Array.from({ length: rows }, (_, row) => 0.5 + (row % 4)) },
    },
  });

function weighed(row: Float32Array, sharpness: number): { readonly weights: Float64Array; readonly sum: number } {
  const max = row.reduce((most, logit) => Math.max(most, logit), Number.NEGATIVE_INFINITY);
  const weights = Float64Array.from(row, (logit) => Math.exp(sharpness * (logit - max)));
  return { weights, sum: weights.reduce((sum, weight) => sum + weight, 0) };
}

export const candidates: Kernel<Candidates> = {
  name: "candidates",
  reads: (op) => [op.logits, op.sharpness],
  outputs: (op) => [
    { name: op.ids, dtype: "i32", width: () => op.count },
    { name: op.values, dtype: "f32", width: () => op.count },
    { name: op.shares, dtype: "f32", width: () => 2 },
  ],
  tolerance: 1e-5,
  forward(op, context) {
    const logits = context.read(op.logits);
    const sharpness = floats(context.read(op.sharpness));
    const { rows, width } = matrix(logits);
    const ids = new Int32Array(rows * op.count);
    const values = new Float32Array(rows * op.count);
    const shares = new Float32Array(rows * 2);
    for (let n = 0; n < rows; n++) {
      const row = floats(logits).subarray(n * width, (n + 1) * width);
      ids.set(topK(row, op.count), n * op.count);
      for (let k = n * op.count; k < (n + 1) * op.count; k++) values[k] = row[ids[k] as number] as number;
      shares.set([1 / weighed(row, 1).sum, 1 / weighed(row, sharpness[n] as number).sum], 2 * n);
    }
    const shape = (of: number): readonly number[] => [rows, of];
    return {
      [op.ids]: { shape: shape(op.count), data: ids },
      [op.values]: { shape: shape(op.count), data: values },
      [op.shares]: { shape: shape(2), data: shares },
    };
  },
  /** The choice is constant. */
  backward(op, context, outputs) {
    const logits = context.read(op.logits);
    const sharpness = floats(context.read(op.sharpness));
    const { rows, width } = matrix(logits);
    const ids = ints(candidates.forward(op, context)[op.ids] as { shape: readonly number[]; data: Int32Array });
    const [dValues, dShares] = [gradientOf(outputs, op.values), gradientOf(outputs, op.shares)];
    const dLogits = new Float64Array(rows * width);
    const dSharpness = new Float32Array(rows);
    for (let n = 0; n < rows; n++) {
      const row = floats(logits).subarray(n * width, (n + 1) * width);
      const own = dLogits.subarray(n * width, (n + 1) * width);
      const add = (id: number, value: number): void => {
        own[id] = (own[id] as number) + value;
      };
      for (let k = n * op.count; k < (n + 1) * op.count; k++) add(ids[k] as number, dValues[k] as number);
      const best = ids[n * op.count] as number;
      for (const [i, sharp] of [1, sharpness[n] as number].entries()) {
        const { weights, sum } = weighed(row, sharp);
        const given = (dShares[2 * n + i] as number) / sum;
        add(best, given * sharp);
        let mean = 0;
        for (let id = 0; id < width; id++) {
          const share = (weights[id] as number) / sum;
          add(id, -given * sharp * share);
          mean += share * (row[id] as number);
        }
        if (i === 1) dSharpness[n] = given * ((row[best] as number) - mean);
      }
    }
    return { [op.logits]: Float32Array.from(dLogits), [op.sharpness]: dSharpness };
  },
  cases: () => [sized(1, 1, 1), sized(3, 65, 65), sized(5, 300, 256), sized(2, 4_099, 64)],
};
