// joinHeads: out[n, heads*(w + s)] = each of `heads` parts of a row of x[n, heads*w], followed by the row of shared[n,
// s].
import { floats, gradientOf, type Kernel, type KernelCase, kernelCase, matrix } from "./kernel.ts";
import { randomTensor } from "./random.ts";

interface JoinHeads {
  readonly op: "joinHeads";
  readonly x: string;
  readonly shared: string;
  readonly heads: number;
  readonly out: string;
}

interface Sizes {
  readonly rows: number;
  readonly heads: number;
  readonly own: number;
  readonly common: number;
}

const sized = ({ rows, heads, own, common }: Sizes): KernelCase<JoinHeads> =>
  kernelCase(joinHeads, {
    name: `[${rows}, ${heads} x ${own}] with ${common} shared`,
    op: { op: "joinHeads", x: "x", shared: "shared", heads, out: "out" },
    inputs: { x: randomTensor(22, [rows, heads * own]), shared: randomTensor(23, [rows, common]) },
  });

export const joinHeads: Kernel<JoinHeads> = {
  name: "joinHeads",
  reads: (op) => [op.x, op.shared],
  outputs: (op) => [{ name: op.out, dtype: "f32", width: ({ width }) => width(op.x) + op.heads * width(op.shared) }],
  tolerance: 0,
  forward(op, context) {
    const [x, shared] = [context.read(op.x), context.read(op.shared)];
    const { rows, width } = matrix(x);
    const [own, common] = [width / op.heads, matrix(shared).width];
    const out = new Float32Array(rows * op.heads * (own + common));
    for (let head = 0; head < rows * op.heads; head++) {
      const row = Math.floor(head / op.heads);
      out.set(floats(x).subarray(head * own, (head + 1) * own), head * (own + common));
      out.set(floats(shared).subarray(row * common, (row + 1) * common), head * (own + common) + own);
    }
    return { [op.out]: { shape: [rows, op.heads * (own + common)], data: out } };
  },
  backward(op, context, outputs) {
    const { rows, width } = matrix(context.read(op.x));
    const [own, common] = [width / op.heads, matrix(context.read(op.shared)).width];
    const dOut = gradientOf(outputs, op.out);
    const dx = new Float32Array(rows * width);
    const dShared = new Float64Array(rows * common);
    for (let head = 0; head < rows * op.heads; head++) {
      const at = head * (own + common);
      dx.set(dOut.subarray(at, at + own), head * own);
      const to = Math.floor(head / op.heads) * common;
      for (let d = 0; d < common; d++) dShared[to + d] = (dShared[to + d] as number) + (dOut[at + own + d] as number);
    }
    return { [op.x]: dx, [op.shared]: Float32Array.from(dShared) };
  },
  cases: () => [
    sized({ rows: 1, heads: 1, own: 1, common: 1 }),
    sized({ rows: 3, heads: 5, own: 16, common: 8 }),
    sized({ rows: 65, heads: 2, own: 63, common: 65 }),
  ],
};
