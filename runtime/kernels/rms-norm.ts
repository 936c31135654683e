// rmsNorm: out = x / sqrt(mean(x^2) + eps) * weight in f32, per row or per equal part of a row.
import { floats, gradientOf, type Kernel, type KernelCase, kernelCase, matrix } from "./kernel.ts";
import { randomTensor } from "./random.ts";
import type { Tensor } from "./tensor.ts";

interface RmsNorm {
  readonly op: "rmsNorm";
  readonly x: string;
  readonly weight: string;
  readonly eps: number;
  /** Unset: the whole row. */
  readonly heads?: number;
  readonly out: string;
}

function inverseRms(x: Float32Array, eps: number): number {
  let sum = 0;
  for (const value of x) sum += value * value;
  return 1 / Math.sqrt(sum / x.length + eps);
}

function partsOf(op: RmsNorm, x: Tensor): { readonly parts: number; readonly width: number } {
  const { rows, width } = matrix(x);
  const heads = op.heads ?? 1;
  return { parts: rows * heads, width: width / heads };
}

function sized(rows: number, part: number, heads?: number): KernelCase<RmsNorm> {
  const width = part * (heads ?? 1);
  return kernelCase(rmsNorm, {
    name: heads === undefined ? `[${rows}, ${width}]` : `[${rows}, ${width}] by ${heads} heads`,
    op: { op: "rmsNorm", x: "x", weight: "weight", eps: 1e-5, ...(heads === undefined ? {} : { heads }), out: "out" },
    weights: { weight: randomTensor(3, [part]) },
    inputs: { x: randomTensor(4, [rows, width], 3) },
  });
}

export const rmsNorm: Kernel<RmsNorm> = {
  name: "rmsNorm",
  reads: (op) => [op.x, op.weight],
  outputs: (op) => [{ name: op.out, dtype: "f32", width: ({ width }) => width(op.x) }],
  tolerance: 1e-6,
  forward(op, context) {
    const x = context.read(op.x);
    const weight = floats(context.read(op.weight));
    const { parts, width } = partsOf(op, x);
    const out = new Float32Array(parts * width);
    for (let n = 0; n < parts; n++) {
      const row = floats(x).subarray(n * width, (n + 1) * width);
      const scale = inverseRms(row, op.eps);
      for (let d = 0; d < width; d++) out[n * width + d] = (row[d] as number) * scale * (weight[d] as number);
    }
    return { [op.out]: { shape: x.shape, data: out } };
  },
  /** With r = 1/rms, g = dOut * weight: dx = r g - x r^3 mean(g x); dWeight = sum_n dOut x r. */
  backward(op, context, outputs) {
    const x = context.read(op.x);
    const weight = floats(context.read(op.weight));
    const dOut = gradientOf(outputs, op.out);
    const { parts, width } = partsOf(op, x);
    const dx = new Float32Array(parts * width);
    const dWeight = new Float64Array(width);
    for (let n = 0; n < parts; n++) {
      const at = n * width;
      const row = floats(x).subarray(at, at + width);
      const r = inverseRms(row, op.eps);
      let dot = 0;
      for (let d = 0; d < width; d++) dot += (dOut[at + d] as number) * (weight[d] as number) * (row[d] as number);
      const pull = (r * r * r * dot) / width;
      for (let d = 0; d < width; d++) {
        dx[at + d] = r * (dOut[at + d] as number) * (weight[d] as number) - (row[d] as number) * pull;
        dWeight[d] = (dWeight[d] as number) + (dOut[at + d] as number) * (row[d] as number) * r;
      }
    }
    return { [op.x]: dx, [op.weight]: Float32Array.from(dWeight) };
  },
  cases: () => [sized(1, 1), sized(2, 63), sized(3, 64), sized(65, 65), sized(5, 576), sized(3, 64, 5)],
};
