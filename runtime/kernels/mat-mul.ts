// matMul: out[n, N] = x[n, K] * weight[N, K]^T.
import { floats, gradientOf, type Kernel, type KernelCase, kernelCase, matrix } from "./kernel.ts";
import { randomTensor } from "./random.ts";

interface MatMul {
  readonly op: "matMul";
  readonly x: string;
  readonly weight: string;
  readonly out: string;
}

const sized = (rows: number, k: number, n: number): KernelCase<MatMul> =>
  kernelCase(matMul, {
    name: `[${rows}, ${k}] x [${n}, ${k}]^T`,
    op: { op: "matMul", x: "x", weight: "weight", out: "out" },
    weights: { weight: randomTensor(5, [n, k], 1 / Math.sqrt(k)) },
    inputs: { x: randomTensor(6, [rows, k]) },
  });

export const matMul: Kernel<MatMul> = {
  name: "matMul",
  reads: (op) => [op.x, op.weight],
  outputs: (op) => [{ name: op.out, dtype: "f32", width: ({ shape }) => shape(op.weight)[0] ?? 1 }],
  tolerance: 2e-6,
  forward(op, context) {
    const x = context.read(op.x);
    const weight = context.read(op.weight);
    const { rows, width: k } = matrix(x);
    const { rows: columns } = matrix(weight);
    const a = floats(x);
    const b = floats(weight);
    const out = new Float32Array(rows * columns);
    for (let n = 0; n < rows; n++) {
      for (let m = 0; m < columns; m++) {
        let sum = 0;
        for (let i = 0, p = n * k, q = m * k; i < k; i++, p++, q++) sum += (a[p] as number) * (b[q] as number);
        out[n * columns + m] = sum;
      }
    }
    return { [op.out]: { shape: [rows, columns], data: out } };
  },
  backward(op, context, outputs) {
    const x = context.read(op.x);
    const weight = context.read(op.weight);
    const { rows, width: k } = matrix(x);
    const { rows: columns } = matrix(weight);
    const a = floats(x);
    const b = floats(weight);
    const dOut = gradientOf(outputs, op.out);
    const dx = new Float64Array(rows * k);
    const dWeight = new Float64Array(columns * k);
    for (let n = 0; n < rows; n++) {
      for (let m = 0; m < columns; m++) {
        const g = dOut[n * columns + m] as number;
        for (let i = 0, p = n * k, q = m * k; i < k; i++, p++, q++) {
          dx[p] = (dx[p] as number) + g * (b[q] as number);
          dWeight[q] = (dWeight[q] as number) + g * (a[p] as number);
        }
      }
    }
    return { [op.x]: Float32Array.from(dx), [op.weight]: Float32Array.from(dWeight) };
  },
  cases: () => [
    sized(1, 1, 1),
    sized(1, 64, 65),
    sized(2, 63, 64),
    sized(3, 65, 63),
    sized(65, 96, 33),
    sized(7, 576, 192),
    sized(64, 64, 64),
  ],
};
