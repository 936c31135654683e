// mixHeads: weighs the heads of several attentions by the row's gate (BAM); the next product sums them.
import { floats, gradientOf, type Kernel, type KernelCase, kernelCase, matrix, type OpContext } from "./kernel.ts";
import { randomTensor } from "./random.ts";

/** out[n, d] = x[n, d], where the i-th of `parts` equal parts of a row is multiplied by softmax(logits[n, e])[i mod e]. */
interface MixHeads {
  readonly op: "mixHeads";
  readonly x: string;
  readonly logits: string;
  readonly parts: number;
  readonly out: string;
}

interface Sizes {
  readonly rows: number;
  readonly shares: number;
  readonly parts: number;
  readonly width: number;
}

const sized = ({ rows, shares, parts, width }: Sizes): KernelCase<MixHeads> =>
  kernelCase(mixHeads, {
    name: `[${rows}, ${parts} x ${width}] by ${shares} shares`,
    op: { op: "mixHeads", x: "x", logits: "logits", parts, out: "out" },
    inputs: { x: randomTensor(91, [rows, parts * width]), logits: randomTensor(92, [rows, shares], 2) },
  });

interface Read {
  readonly x: Float32Array;
  readonly rows: number;
  readonly width: number;
  readonly shares: Float64Array;
  readonly count: number;
  shareOf(i: number): number;
}

function softmax(logits: Float32Array): Float64Array {
  const most = logits.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const powers = Float64Array.from(logits, (logit) => Math.exp(logit - most));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
}

function readOf(op: MixHeads, context: OpContext): Read {
  const x = context.read(op.x);
  const { rows, width } = matrix(x);
  const logits = context.read(op.logits);
  const count = matrix(logits).width;
  const shares = new Float64Array(rows * count);
  for (let row = 0; row < rows; row++) shares.set(softmax(floats(logits).subarray(row * count, (row + 1) * count)), row * count);
  const part = width / op.parts;
  const shareOf = (i: number): number => Math.floor(i / width) * count + (Math.floor((i % width) / part) % count);
  return { x: floats(x), rows, width, shares, count, shareOf };
}

export const mixHeads: Kernel<MixHeads> = {
  name: "mixHeads",
  reads: (op) => [op.x, op.logits],
  outputs: (op) => [{ name: op.out, dtype: "f32", width: ({ width }) => width(op.x) }],
  tolerance: 2e-6,
  forward(op, context) {
    const { x, rows, width, shares, shareOf } = readOf(op, context);
    return { [op.out]: { shape: [rows, width], data: x.map((value, i) => value * (shares[shareOf(i)] as number)) } };
  },
  backward(op, context, outputs) {
    const { x, rows, shares, count, shareOf } = readOf(op, context);
    const dOut = gradientOf(outputs, op.out);
    const dx = new Float32Array(x.length);
    const dShares = new Float64Array(shares.length);
    for (const [i, d] of dOut.entries()) {
      const at = shareOf(i);
      dx[i] = d * (shares[at] as number);
      dShares[at] = (dShares[at] as number) + d * (x[i] as number);
    }
    const dLogits = new Float32Array(shares.length);
    for (let row = 0; row < rows; row++) {
      const own = shares.subarray(row * count, (row + 1) * count);
      const given = dShares.subarray(row * count, (row + 1) * count);
      const mean = own.reduce((sum, share, i) => sum + share * (given[i] as number), 0);
      for (const [i, share] of own.entries()) dLogits[row * count + i] = share * ((given[i] as number) - mean);
    }
    return { [op.x]: dx, [op.logits]: dLogits };
  },
  cases: () => [
    sized({ rows: 1, shares: 1, parts: 1, width: 1 }),
    sized({ rows: 3, shares: 2, parts: 2, width: 65 }),
    sized({ rows: 64, shares: 3, parts: 9, width: 16 }),
    sized({ rows: 65, shares: 4, parts: 8, width: 63 }),
  ],
};
