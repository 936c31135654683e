// scale: out = x * by, elementwise, by a constant.
import { floats, gradientOf, type Kernel, type KernelCase, matrix } from "./kernel.ts";
import { randomTensor } from "./random.ts";

interface Scale {
  readonly op: "scale";
  readonly x: string;
  readonly by: number;
  readonly out: string;
}

function sized(rows: number, width: number, by: number): KernelCase<Scale> {
  return {
    name: `[${rows}, ${width}] by ${by}`,
    segment: {
      name: "scale",
      inputs: [{ name: "x", dtype: "f32", width }],
      outputs: [{ name: "out", dtype: "f32", width }],
      weights: [],
      ops: [{ op: "scale", x: "x", by, out: "out" }],
    },
    weights: {},
    inputs: { x: randomTensor(61, [rows, width]) },
  };
}

/** Rounds `by` to f32 first. */
const times = (values: Float32Array, by: number): Float32Array => values.map((value) => value * Math.fround(by));

export const scale: Kernel<Scale> = {
  name: "scale",
  reads: (op) => [op.x],
  outputs: (op) => [{ name: op.out, dtype: "f32", width: ({ width }) => width(op.x) }],
  tolerance: 0,
  forward(op, context) {
    const x = context.read(op.x);
    const { rows, width } = matrix(x);
    return { [op.out]: { shape: [rows, width], data: times(floats(x), op.by) } };
  },
  backward: (op, _context, outputs) => ({ [op.x]: times(gradientOf(outputs, op.out), op.by) }),
  cases: () => [sized(1, 1, 0.7), sized(3, 65, -1), sized(65, 64, 0)],
};
