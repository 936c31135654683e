// siluMul: out = silu(a) * b with silu(a) = a / (1 + exp(-a)).
import { floats, gradientOf, type Kernel, type KernelCase, kernelCase, matrix } from "./kernel.ts";
import { randomTensor } from "./random.ts";

interface SiluMul {
  readonly op: "siluMul";
  readonly a: string;
  readonly b: string;
  readonly out: string;
}

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));

const sized = (rows: number, width: number): KernelCase<SiluMul> =>
  kernelCase(siluMul, {
    name: `[${rows}, ${width}]`,
    op: { op: "siluMul", a: "a", b: "b", out: "out" },
    inputs: { a: randomTensor(9, [rows, width], 4), b: randomTensor(10, [rows, width]) },
  });

function extremes(): KernelCase<SiluMul> {
  const a = Float32Array.of(-1000, -100, -88.8, -20, -0, 0, 20, 88.8, 100, 1000);
  return {
    ...sized(1, a.length),
    name: "arguments from -1000 to 1000",
    inputs: { a: { shape: [1, a.length], data: a }, b: { shape: [1, a.length], data: new Float32Array(a.length).fill(0.5) } },
  };
}

export const siluMul: Kernel<SiluMul> = {
  name: "siluMul",
  reads: (op) => [op.a, op.b],
  outputs: (op) => [{ name: op.out, dtype: "f32", width: ({ width }) => width(op.a) }],
  tolerance: 2e-6,
  forward(op, context) {
    const a = context.read(op.a);
    const b = floats(context.read(op.b));
    const { rows, width } = matrix(a);
    return { [op.out]: { shape: [rows, width], data: floats(a).map((value, i) => value * sigmoid(value) * (b[i] as number)) } };
  },
  /** silu' = s (1 + a (1 - s)) with s = sigmoid(a). */
  backward(op, context, outputs) {
    const a = floats(context.read(op.a));
    const b = floats(context.read(op.b));
    const dOut = gradientOf(outputs, op.out);
    const da = a.map((value, i) => {
      const s = sigmoid(value);
      return (dOut[i] as number) * (b[i] as number) * s * (1 + value * (1 - s));
    });
    return { [op.a]: da, [op.b]: a.map((value, i) => (dOut[i] as number) * value * sigmoid(value)) };
  },
  cases: () => [sized(1, 1), sized(2, 63), sized(65, 64), sized(3, 257), extremes()],
};
