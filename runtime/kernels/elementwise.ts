// Sums and a product with a constant: add, addRow and scale.
import { floats, gradientOf, type Kernel, type KernelCase, kernelCase, matrix } from "./kernel.ts";
import { randomTensor } from "./random.ts";

/** out = a + b, elementwise. */
interface Add {
  readonly op: "add";
  readonly a: string;
  readonly b: string;
  readonly out: string;
}

const sums = (rows: number, width: number): KernelCase<Add> =>
  kernelCase(add, {
    name: `[${rows}, ${width}]`,
    op: { op: "add", a: "a", b: "b", out: "out" },
    inputs: { a: randomTensor(7, [rows, width]), b: randomTensor(8, [rows, width]) },
  });

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
  cases: () => [sums(1, 1), sums(3, 65), sums(64, 63), sums(65, 64)],
};

/** out[n, d] = x[n, d] + row[d], a projection's bias. */
interface AddRow {
  readonly op: "addRow";
  readonly x: string;
  readonly row: string;
  readonly out: string;
}

const biased = (rows: number, width: number): KernelCase<AddRow> =>
  kernelCase(addRow, {
    name: `[${rows}, ${width}] + [${width}]`,
    op: { op: "addRow", x: "x", row: "row", out: "out" },
    weights: { row: randomTensor(12, [width]) },
    inputs: { x: randomTensor(13, [rows, width]) },
  });

export const addRow: Kernel<AddRow> = {
  name: "addRow",
  reads: (op) => [op.x, op.row],
  outputs: (op) => [{ name: op.out, dtype: "f32", width: ({ width }) => width(op.x) }],
  tolerance: 0,
  forward(op, context) {
    const x = context.read(op.x);
    const row = floats(context.read(op.row));
    const { rows, width } = matrix(x);
    return { [op.out]: { shape: [rows, width], data: floats(x).map((value, i) => value + (row[i % width] as number)) } };
  },
  backward(op, context, outputs) {
    const dOut = gradientOf(outputs, op.out);
    const { width } = matrix(context.read(op.x));
    const dRow = new Float64Array(width);
    for (const [i, value] of dOut.entries()) dRow[i % width] = (dRow[i % width] as number) + value;
    return { [op.x]: dOut.slice(), [op.row]: Float32Array.from(dRow) };
  },
  cases: () => [biased(1, 1), biased(3, 65), biased(65, 64)],
};

/** out = x * by, elementwise, by a constant. */
interface Scale {
  readonly op: "scale";
  readonly x: string;
  readonly by: number;
  readonly out: string;
}

const scaled = (rows: number, width: number, by: number): KernelCase<Scale> =>
  kernelCase(scale, {
    name: `[${rows}, ${width}] by ${by}`,
    op: { op: "scale", x: "x", by, out: "out" },
    inputs: { x: randomTensor(61, [rows, width]) },
  });

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
  cases: () => [scaled(1, 1, 0.7), scaled(3, 65, -1), scaled(65, 64, 0)],
};
