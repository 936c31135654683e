// gather: out[n, d] = table[ids[n], :], an embedding lookup.
import { AppError } from "../../crds/common.ts";
import { floats, gradientOf, ints, type Kernel, type KernelCase, kernelCase, matrix } from "./kernel.ts";
import { randomIds, randomTensor } from "./random.ts";

interface Gather {
  readonly op: "gather";
  readonly ids: string;
  readonly table: string;
  readonly out: string;
}

/** Call it before a lookup: a GPU would read out of bounds silently. */
export function checkIds(ids: Int32Array, rows: number): void {
  for (const [at, id] of ids.entries()) {
    if (id < 0 || id >= rows) {
      throw new AppError(`ids[${at}] is ${id}: it must be 0..${rows - 1}`, { code: "InvalidArgument", operation: "gather" });
    }
  }
}

const sized = (rows: number, vocab: number, width: number): KernelCase<Gather> =>
  kernelCase(gather, {
    name: `${rows} rows of [${vocab}, ${width}]`,
    op: { op: "gather", ids: "ids", table: "table", out: "out" },
    weights: { table: randomTensor(1, [vocab, width]) },
    inputs: { ids: randomIds(2, rows, vocab) },
  });

export const gather: Kernel<Gather> = {
  name: "gather",
  reads: (op) => [op.ids, op.table],
  outputs: (op) => [{ name: op.out, dtype: "f32", width: ({ shape }) => shape(op.table)[1] ?? 1 }],
  tolerance: 0,
  forward(op, context) {
    const ids = ints(context.read(op.ids));
    const table = context.read(op.table);
    const { rows, width } = matrix(table);
    checkIds(ids, rows);
    const out = new Float32Array(ids.length * width);
    for (const [n, id] of ids.entries()) out.set(floats(table).subarray(id * width, (id + 1) * width), n * width);
    return { [op.out]: { shape: [ids.length, width], data: out } };
  },
  backward(op, context, outputs) {
    const ids = ints(context.read(op.ids));
    const table = context.read(op.table);
    const { width } = matrix(table);
    const dOut = gradientOf(outputs, op.out);
    const dTable = new Float32Array(table.data.length);
    for (const [n, id] of ids.entries()) {
      for (let d = 0; d < width; d++) dTable[id * width + d] = (dTable[id * width + d] as number) + (dOut[n * width + d] as number);
    }
    return { [op.table]: dTable };
  },
  cases: () => [sized(1, 5, 4), sized(3, 1, 1), sized(64, 65, 63), sized(65, 300, 96)],
};
