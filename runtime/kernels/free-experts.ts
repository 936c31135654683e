// freeExperts: the constant, copy and zero experts of MoE++, computed on the token's own rank.
import { floats, gradientOf, ints, type Kernel, type KernelCase, kernelCase, matrix, type OpContext } from "./kernel.ts";
import { randomTensor } from "./random.ts";

/**
 * out = x, and in the first d values of each row of x[n, d or more] gates[k] * E(f) is added in gate order and in f32 for each chosen
 * id from `from` on. The first c free experts give a1 * f + a2 * constants[:, c] with (a1, a2) = softmax of their two values of `mix`;
 * the next `copies` give f, and `zeros` more give nothing.
 */
interface FreeExperts {
  readonly op: "freeExperts";
  readonly x: string;
  readonly f: string;
  readonly ids: string;
  readonly gates: string;
  readonly from: number;
  readonly copies: number;
  readonly zeros: number;
  /** Values [n, 2 * c]; absent with `constants`. */
  readonly mix?: string;
  /** Weight [d, c]. */
  readonly constants?: string;
  readonly out: string;
}

interface Chosen {
  readonly row: number;
  readonly place: number;
  readonly constant: number | undefined;
  readonly own: number;
  readonly other: number;
}

interface Read {
  readonly f: Float32Array;
  readonly gates: Float32Array;
  readonly mix: Float32Array;
  readonly constants: Float32Array;
  readonly width: number;
  readonly rows: number;
  readonly count: number;
}

const none = new Float32Array(0);

function readOf(op: FreeExperts, context: OpContext): Read {
  const f = context.read(op.f);
  const { rows, width } = matrix(f);
  const constants = op.constants === undefined ? undefined : context.read(op.constants);
  return {
    f: floats(f),
    gates: floats(context.read(op.gates)),
    mix: op.mix === undefined ? none : floats(context.read(op.mix)),
    constants: constants === undefined ? none : floats(constants),
    width,
    rows,
    count: constants?.shape[1] ?? 0,
  };
}

function chosenOf(op: FreeExperts, context: OpContext, { mix, rows, count }: Read): Chosen[] {
  const ids = ints(context.read(op.ids));
  const topK = ids.length / Math.max(1, rows);
  return [...ids.entries()].flatMap(([place, id]): Chosen[] => {
    const at = id - op.from;
    if (at < 0 || at >= count + op.copies) return [];
    const row = Math.floor(place / topK);
    if (at >= count) return [{ row, place, constant: undefined, own: 1, other: 0 }];
    const own = 1 / (1 + Math.exp((mix[2 * (row * count + at) + 1] as number) - (mix[2 * (row * count + at)] as number)));
    return [{ row, place, constant: at, own, other: 1 - own }];
  });
}

function givenBy({ row, constant, own, other }: Chosen, { f, constants, width, count }: Read, j: number): number {
  const copied = f[row * width + j] as number;
  return constant === undefined ? copied : Math.fround(own * copied + other * (constants[j * count + constant] as number));
}

interface Sizes {
  readonly rows: number;
  readonly width: number;
  readonly behind: number;
  readonly constants: number;
  readonly copies: number;
  readonly zeros: number;
}

function sized({ rows, width, behind, constants, copies, zeros }: Sizes): KernelCase<FreeExperts> {
  const [topK, from] = [3, 4];
  const all = from + constants + copies + zeros;
  const ids = Int32Array.from({ length: rows * topK }, (_, place) => (2 * Math.floor(place / topK) + 3 * (place % topK)) % all);
  return kernelCase(freeExperts, {
    name: `${rows} rows of ${width} + ${behind}, ${constants} constants, ${copies} copies, ${zeros} that give nothing`,
    op: Object.assign(
      { op: "freeExperts" as const, x: "x", f: "f", ids: "ids", gates: "gates", from, copies, zeros, out: "out" },
      constants > 0 ? { mix: "mix", constants: "values" } : {},
    ),
    weights: constants > 0 ? { values: randomTensor(71, [width, constants]) } : {},
    inputs: Object.assign(
      {
        x: randomTensor(72, [rows, width + behind]),
        f: randomTensor(73, [rows, width]),
        ids: { shape: [rows, topK], data: ids },
        gates: randomTensor(74, [rows, topK]),
      },
      constants > 0 ? { mix: randomTensor(75, [rows, 2 * constants]) } : {},
    ),
  });
}

export const freeExperts: Kernel<FreeExperts> = {
  name: "freeExperts",
  keeps: (op) => [op.mix].filter((name) => name !== undefined),
  reads: (op) => [op.x, op.f, op.ids, op.gates, ...[op.mix, op.constants].filter((name) => name !== undefined)],
  outputs: (op) => [{ name: op.out, dtype: "f32", width: ({ width }) => width(op.x) }],
  tolerance: 2e-6,
  forward(op, context) {
    const x = context.read(op.x);
    const read = readOf(op, context);
    const stride = matrix(x).width;
    const out = floats(x).slice();
    for (const chosen of chosenOf(op, context, read)) {
      const gate = read.gates[chosen.place] as number;
      const at = chosen.row * stride;
      for (let j = 0; j < read.width; j++) out[at + j] = (out[at + j] as number) + Math.fround(gate * givenBy(chosen, read, j));
    }
    return { [op.out]: { shape: [read.rows, stride], data: out } };
  },
  /** The choice is constant, and x has the gradient of the output. */
  backward(op, context, outputs) {
    const read = readOf(op, context);
    const { f, gates, constants, width, rows, count } = read;
    const dOut = gradientOf(outputs, op.out);
    const stride = dOut.length / Math.max(1, rows);
    const [df, dGates, dMix] = [new Float32Array(f.length), new Float32Array(gates.length), new Float32Array(read.mix.length)];
    const dConstants = new Float64Array(constants.length);
    for (const { row, place, constant, own, other } of chosenOf(op, context, read)) {
      const gate = gates[place] as number;
      let [ofCopy, ofConstant] = [0, 0];
      for (let j = 0; j < width; j++) {
        const d = dOut[row * stride + j] as number;
        const at = row * width + j;
        ofCopy += d * (f[at] as number);
        df[at] = (df[at] as number) + gate * own * d;
        if (constant === undefined) continue;
        const c = j * count + constant;
        ofConstant += d * (constants[c] as number);
        dConstants[c] = (dConstants[c] as number) + gate * other * d;
      }
      dGates[place] = own * ofCopy + other * ofConstant;
      if (constant === undefined) continue;
      const slope = gate * own * other * (ofCopy - ofConstant);
      const at = 2 * (row * count + constant);
      dMix[at] = slope;
      dMix[at + 1] = -slope;
    }
    const found: Record<string, Float32Array> = { [op.x]: dOut.slice(), [op.f]: df, [op.gates]: dGates };
    if (op.mix !== undefined) found[op.mix] = dMix;
    if (op.constants !== undefined) found[op.constants] = Float32Array.from(dConstants);
    return found;
  },
  cases: () => [
    sized({ rows: 1, width: 1, behind: 0, constants: 0, copies: 1, zeros: 1 }),
    sized({ rows: 3, width: 65, behind: 0, constants: 2, copies: 1, zeros: 1 }),
    sized({ rows: 64, width: 63, behind: 9, constants: 1, copies: 2, zeros: 0 }),
    sized({ rows: 65, width: 64, behind: 8, constants: 3, copies: 0, zeros: 2 }),
  ],
};
