// add: out = a + b, elementwise.
import { floats, gradientOf, type Kernel, type KernelCase, matrix } from "./kernel.ts";
import { randomTensor } from "./random.ts";

interface Add {
  readonly op: "add";
  readonly a: string;
  readonly b: string;
  readonly out: string;
}

function sized(rows: number, width: number): KernelCase<Add> {
  return {
    name: `[${rows}, ${width}]`,
    segment: {
      name: "add",
      inputs: [
        { name: "a", dtype: "f32", width },
        { name: "b", dtype: "f32", width },
      ],
      outputs: [{ name: "out", dtype: "f32", width }],
      weights: [],
      ops: [{ op: "add", a: "a", b: "b", out: "out" }],
    },
    weights: {},
    inputs: { a: randomTensor(7, [rows, width]), b: randomTensor(8, [rows, width]) },
  };
}

export const add: Kernel<Add> = {
  name: "add",
  reads: (op) => [op.a, op.b],
  outputs: (op) => [{ name: op.out, dtype: "f32", width: ({ width }) => width(op.a) }],
  tolerance: 0,
  forward(op, context) {
    const a = context.read(op.a);
    const b = floats(context.read(op.b));
    const { rows, width } = matrix(a);
    return { [op.out]: { shape: [rows, width], data: floats(a).map((value, i) => value + (b[i] as number)) } };
  },
  backward(op, _context, outputs) {
    const dOut = gradientOf(outputs, op.out);
    if (op.a === op.b) return { [op.a]: dOut.map((value) => 2 * value) };
    return { [op.a]: dOut.slice(), [op.b]: dOut.slice() };
  },
  cases: () => [sized(1, 1), sized(3, 65), sized(64, 63), sized(65, 64)],
};
