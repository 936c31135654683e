// clampedSwiglu: out = (u + 1) * g * sigmoid(alpha * g) with g = min(a, limit), u = b clamped to -limit..limit.
import { floats, gradientOf, type Kernel, type KernelCase, kernelCase, matrix } from "./kernel.ts";
import { randomTensor } from "./random.ts";

interface ClampedSwiglu {
  readonly op: "clampedSwiglu";
  readonly a: string;
  readonly b: string;
  readonly alpha: number;
  readonly limit: number;
  readonly out: string;
}

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));
const within = (x: number, limit: number): number => Math.max(-limit, Math.min(x, limit));

const sized = (rows: number, width: number): KernelCase<ClampedSwiglu> =>
  kernelCase(clampedSwiglu, {
    name: `[${rows}, ${width}]`,
    op: { op: "clampedSwiglu", a: "a", b: "b", alpha: 1.702, limit: 7, out: "out" },
    inputs: { a: randomTensor(24, [rows, width], 8), b: randomTensor(25, [rows, width], 8) },
  });

function extremes(): KernelCase<ClampedSwiglu> {
  const a = Float32Array.of(-1000, -100, -60, -20, -0, 0, 6.5, 7, 100, 1000);
  const b = Float32Array.of(1000, 7, -7, -1000, 1, -1, 0.5, 100, -100, 3);
  return {
    ...sized(1, a.length),
    name: "arguments from -1000 to 1000",
    inputs: { a: { shape: [1, a.length], data: a }, b: { shape: [1, a.length], data: b } },
  };
}

export const clampedSwiglu: Kernel<ClampedSwiglu> = {
  name: "clampedSwiglu",
  reads: (op) => [op.a, op.b],
  outputs: (op) => [{ name: op.out, dtype: "f32", width: ({ width }) => width(op.a) }],
  tolerance: 4e-6,
  forward(op, context) {
    const a = context.read(op.a);
    const b = floats(context.read(op.b));
    const { rows, width } = matrix(a);
    const data = floats(a).map((value, i) => {
      const g = Math.min(value, op.limit);
      return (within(b[i] as number, op.limit) + 1) * g * sigmoid(op.alpha * g);
    });
    return { [op.out]: { shape: [rows, width], data } };
  },
  /** With s = sigmoid(alpha g): d/dg = (u + 1) s (1 + alpha g (1 - s)); beyond a limit the gradient is 0. */
  backward(op, context, outputs) {
    const a = floats(context.read(op.a));
    const b = floats(context.read(op.b));
    const dOut = gradientOf(outputs, op.out);
    const da = a.map((g, i) => {
      if (g > op.limit) return 0;
      const s = sigmoid(op.alpha * g);
      return (dOut[i] as number) * (within(b[i] as number, op.limit) + 1) * s * (1 + op.alpha * g * (1 - s));
    });
    const db = b.map((u, i) => {
      if (Math.abs(u) > op.limit) return 0;
      const g = Math.min(a[i] as number, op.limit);
      return (dOut[i] as number) * g * sigmoid(op.alpha * g);
    });
    return { [op.a]: da, [op.b]: db };
  },
  cases: () => [sized(1, 1), sized(2, 63), sized(65, 64), sized(3, 257), extremes()],
};
