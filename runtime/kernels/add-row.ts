// addRow: out[n, d] = x[n, d] + row[d], a projection's bias.
import { floats, gradientOf, type Kernel, type KernelCase, matrix } from "./kernel.ts";
import { randomTensor } from "./random.ts";

interface AddRow {
  readonly op: "addRow";
  readonly x: string;
  readonly row: string;
  readonly out: string;
}

function sized(rows: number, width: number): KernelCase<AddRow> {
  return {
    name: `[${rows}, ${width}] + [${width}]`,
    segment: {
      name: "addRow",
      inputs: [{ name: "x", dtype: "f32", width }],
      outputs: [{ name: "out", dtype: "f32", width }],
      weights: [{ name: "row", shape: [width] }],
      ops: [{ op: "addRow", x: "x", row: "row", out: "out" }],
    },
    weights: { row: randomTensor(12, [width]) },
    inputs: { x: randomTensor(13, [rows, width]) },
  };
}

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
  cases: () => [sized(1, 1), sized(3, 65), sized(65, 64)],
};
