// slice: out[n, heads*width] = values from..from+width-1 of each of `heads` equal parts of a row of x.
import { floats, gradientOf, type Kernel, type KernelCase, kernelCase, matrix } from "./kernel.ts";
import { randomTensor } from "./random.ts";

interface Slice {
  readonly op: "slice";
  readonly x: string;
  readonly heads: number;
  readonly from: number;
  readonly width: number;
  readonly out: string;
}

interface Sizes {
  readonly rows: number;
  readonly part: number;
  readonly heads: number;
  readonly from: number;
  readonly width: number;
}

const sized = ({ rows, part, heads, from, width }: Sizes): KernelCase<Slice> =>
  kernelCase(slice, {
    name: `[${rows}, ${heads} x ${part}], ${width} values from ${from}`,
    op: { op: "slice", x: "x", heads, from, width, out: "out" },
    inputs: { x: randomTensor(21, [rows, heads * part]) },
  });

/** Calls `each` with the source and target offset of every run. */
function runs(op: Slice, rows: number, rowWidth: number, each: (from: number, to: number) => void): void {
  const part = rowWidth / op.heads;
  for (let run = 0; run < rows * op.heads; run++) each(run * part + op.from, run * op.width);
}

export const slice: Kernel<Slice> = {
  name: "slice",
  reads: (op) => [op.x],
  outputs: (op) => [{ name: op.out, dtype: "f32", width: () => op.heads * op.width }],
  tolerance: 0,
  forward(op, context) {
    const x = context.read(op.x);
    const { rows, width } = matrix(x);
    const out = new Float32Array(rows * op.heads * op.width);
    runs(op, rows, width, (from, to) => out.set(floats(x).subarray(from, from + op.width), to));
    return { [op.out]: { shape: [rows, op.heads * op.width], data: out } };
  },
  backward(op, context, outputs) {
    const { rows, width } = matrix(context.read(op.x));
    const dOut = gradientOf(outputs, op.out);
    const dx = new Float32Array(rows * width);
    runs(op, rows, width, (from, to) => dx.set(dOut.subarray(to, to + op.width), from));
    return { [op.x]: dx };
  },
  cases: () => [
    sized({ rows: 1, part: 1, heads: 1, from: 0, width: 1 }),
    sized({ rows: 3, part: 65, heads: 1, from: 63, width: 2 }),
    sized({ rows: 5, part: 24, heads: 3, from: 0, width: 16 }),
    sized({ rows: 65, part: 24, heads: 3, from: 16, width: 8 }),
  ],
};
