// gru: the cell of a gated recurrent unit after its matrix products.
import { floats, gradientOf, type Kernel, type KernelCase, kernelCase, matrix, type OpContext } from "./kernel.ts";
import { randomTensor } from "./random.ts";

/**
 * out[n, p] = (1 - z) * new + z * state with r = sigmoid(given + held) of their first p values, z of their second, and new = tanh(given +
 * r * held) of their third. given[n, 3p] and held[n, 3p] are the products of input and state, with biases.
 */
interface Gru {
  readonly op: "gru";
  readonly given: string;
  readonly held: string;
  readonly state: string;
  readonly out: string;
}

const sized = (rows: number, width: number): KernelCase<Gru> =>
  kernelCase(gru, {
    name: `[${rows}, ${width}]`,
    op: { op: "gru", given: "given", held: "held", state: "state", out: "out" },
    inputs: {
      given: randomTensor(81, [rows, 3 * width], 2),
      held: randomTensor(82, [rows, 3 * width], 2),
      state: randomTensor(83, [rows, width]),
    },
  });

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));

/** Reset r, update z, new value n, and the factor of r. */
interface Cell {
  readonly at: number;
  /** The index of r's part in `given` and `held`. */
  readonly first: number;
  readonly r: number;
  readonly z: number;
  readonly n: number;
  readonly recalled: number;
}

function* cells(op: Gru, context: OpContext): Generator<Cell> {
  const [given, held] = [floats(context.read(op.given)), floats(context.read(op.held))];
  const { rows, width } = matrix(context.read(op.state));
  const sum = (at: number): number => (given[at] as number) + (held[at] as number);
  for (let row = 0; row < rows; row++)
    for (let j = 0; j < width; j++) {
      const first = 3 * row * width + j;
      const [r, z] = [sigmoid(sum(first)), sigmoid(sum(first + width))];
      const recalled = held[first + 2 * width] as number;
      yield { at: row * width + j, first, r, z, recalled, n: Math.tanh((given[first + 2 * width] as number) + r * recalled) };
    }
}

export const gru: Kernel<Gru> = {
  name: "gru",
  reads: (op) => [op.given, op.held, op.state],
  outputs: (op) => [{ name: op.out, dtype: "f32", width: ({ width }) => width(op.state) }],
  tolerance: 2e-6,
  forward(op, context) {
    const state = context.read(op.state);
    const before = floats(state);
    const out = new Float32Array(before.length);
    for (const { at, z, n } of cells(op, context)) out[at] = (1 - z) * n + z * (before[at] as number);
    return { [op.out]: { shape: state.shape, data: out } };
  },
  backward(op, context, outputs) {
    const before = floats(context.read(op.state));
    const { width } = matrix(context.read(op.state));
    const dOut = gradientOf(outputs, op.out);
    const [dGiven, dHeld] = [new Float32Array(3 * before.length), new Float32Array(3 * before.length)];
    const dState = new Float32Array(before.length);
    for (const { at, first, r, z, n, recalled } of cells(op, context)) {
      const d = dOut[at] as number;
      const ofNew = d * (1 - z) * (1 - n * n);
      const [ofReset, ofUpdate] = [ofNew * recalled * r * (1 - r), d * ((before[at] as number) - n) * z * (1 - z)];
      dState[at] = d * z;
      dGiven.set([ofReset], first);
      dHeld.set([ofReset], first);
      dGiven.set([ofUpdate], first + width);
      dHeld.set([ofUpdate], first + width);
      dGiven.set([ofNew], first + 2 * width);
      dHeld.set([ofNew * r], first + 2 * width);
    }
    return { [op.given]: dGiven, [op.held]: dHeld, [op.state]: dState };
  },
  cases: () => [sized(1, 1), sized(3, 65), sized(65, 16)],
};
