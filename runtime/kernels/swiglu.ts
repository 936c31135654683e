// The gates of FFNs: siluMul and clampedSwiglu.
import { floats, gradientOf, type Kernel, type KernelCase, kernelCase, matrix } from "./kernel.ts";
import { randomTensor } from "./random.ts";

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));

/** out = silu(a) * b with silu(a) = a / (1 + exp(-a)). */
interface SiluMul {
  readonly op: "siluMul";
  readonly a: string;
  readonly b: string;
  readonly out: string;
}

const silus = (rows: number, width: number): KernelCase<SiluMul> =>
  kernelCase(siluMul, {
    name: `[${rows}, ${width}]`,
    op: { op: "siluMul", a: "a", b: "b", out: "out" },
    inputs: { a: randomTensor(9, [rows, width], 4), b: randomTensor(10, [rows, width]) },
  });

function extremeSilus(): KernelCase<SiluMul> {
  const a = Float32Array.of(-1000, -100, -88.8, -20, -0, 0, 20, 88.8, 100, 1000);
  return {
    ...silus(1, a.length),
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
  cases: () => [silus(1, 1), silus(2, 63), silus(65, 64), silus(3, 257), extremeSilus()],
};

/** out = (u + 1) * g * sigmoid(alpha * g) with g = min(a, limit), u = b clamped to -limit..limit. */
interface ClampedSwiglu {
  readonly op: "clampedSwiglu";
  readonly a: string;
  readonly b: string;
  readonly alpha: number;
  readonly limit: number;
  readonly out: string;
}

const within = (x: number, limit: number): number => Math.max(-limit, Math.min(x, limit));

const clamped = (rows: number, width: number): KernelCase<ClampedSwiglu> =>
  kernelCase(clampedSwiglu, {
    name: `[${rows}, ${width}]`,
    op: { op: "clampedSwiglu", a: "a", b: "b", alpha: 1.702, limit: 7, out: "out" },
    inputs: { a: randomTensor(24, [rows, width], 8), b: randomTensor(25, [rows, width], 8) },
  });

function extremeClamped(): KernelCase<ClampedSwiglu> {
  const a = Float32Array.of(-1000, -100, -60, -20, -0, 0, 6.5, 7, 100, 1000);
  const b = Float32Array.of(1000, 7, -7, -1000, 1, -1, 0.5, 100, -100, 3);
  return {
    ...clamped(1, a.length),
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
  cases: () => [clamped(1, 1), clamped(2, 63), clamped(65, 64), clamped(3, 257), extremeClamped()],
};
