// Tests the forms of a model's weights: a product by random blocks of each, for experts and for the dense part, against the reference
// (DECISIONS.md 3).
import { dequantizeGgml, ggmlFormats, isGgmlForm } from "../kernels/ggml/index.ts";
import { randomTensor, uniform } from "../kernels/random.ts";
import type { Op, Segment } from "../kernels/segment.ts";
import type { WeightData, WeightForm } from "../kernels/weights.ts";
import type { Backend } from "./backend.ts";
import { type OpResult, relativeError } from "./op-self-test.ts";

export interface TriedForms {
  readonly experts: Iterable<WeightForm>;
  readonly dense: Iterable<WeightForm>;
}

/** Rows and columns; a multiple of every block size. */
const size = 256;
/** Few and many rows use different kernels. */
const rowsTried = [1, 40] as const;
/** max|a - b| / max|b| for types that round rows to eight bits. */
const bound = 0.04;
/** Bounds of a block's largest value, since random scales may be anything. */
const blockLeast = 2 ** -6;
const blockMost = 4;
const drawsMax = 100_000;

/** A router's product has the same form, with more ops. */
const ways = {
  experts: [{ op: "matMul", x: "x", weight: "w", out: "y" }],
  dense: [
    { op: "rmsNorm", x: "x", weight: "n", eps: 1e-5, out: "a" },
    { op: "matMul", x: "a", weight: "w", out: "y" },
  ],
} as const satisfies Record<keyof TriedForms, readonly Op[]>;

export async function tryForms(backend: Backend, oracle: Backend, forms: TriedForms): Promise<readonly OpResult[]> {
  const results: OpResult[] = [];
  for (const way of ["experts", "dense"] as const) {
    for (const form of new Set(forms[way])) {
      const program = { segment: productOf(way), weights: { w: matrixOf(form), n: { form: "f32", shape: [size], data: ones } } } as const;
      for (const rows of rowsTried) {
        const x = randomTensor(rows, [rows, size]);
        const [got, want] = [await product(backend, program, x), await product(oracle, program, x)];
        const named = { op: "matMul", case: `${form}, ${way}, ${rows} ${rows === 1 ? "row" : "rows"}` };
        results.push({ ...named, bound, error: relativeError(got, want), refused: undefined });
      }
    }
  }
  return results;
}

const ones = new Float32Array(size).fill(1);

function productOf(way: keyof TriedForms): Segment {
  return {
    name: `a product of ${way}`,
    inputs: [{ name: "x", dtype: "f32", width: size }],
    outputs: [{ name: "y", dtype: "f32", width: size }],
    weights: [{ name: "w", shape: [size, size] }, ...(way === "dense" ? [{ name: "n", shape: [size] }] : [])],
    ops: ways[way],
  };
}

interface Product {
  readonly segment: Segment;
  readonly weights: Readonly<Record<"w" | "n", WeightData>>;
}

async function product(backend: Backend, { segment, weights }: Product, x: ReturnType<typeof randomTensor>): Promise<Float32Array> {
  const program = await backend.compile(segment, weights);
  try {
    return (await program.run({ x })).y?.data.slice() as Float32Array;
  } finally {
    await program.dispose();
  }
}

function matrixOf(form: WeightForm): WeightData {
  const shape = [size, size];
  if (!isGgmlForm(form)) return { form, ...(randomTensor(1, shape) as { shape: number[]; data: Float32Array }) };
  const { values, bytes } = ggmlFormats[form];
  const data = new Uint8Array((size * size * bytes) / values);
  const next = uniform(1);
  const block = new Uint8Array(bytes);
  for (let at = 0; at < data.length; at += bytes) {
    let draws = 0;
    do {
      for (let i = 0; i < bytes; i++) block[i] = 256 * next();
      draws += 1;
    } while (draws < drawsMax && !isOrdinary(dequantizeGgml(form, block)));
    data.set(block, at);
  }
  return { form, shape, data };
}

function isOrdinary(values: Float32Array): boolean {
  let most = 0;
  for (const value of values) {
    if (!Number.isFinite(value)) return false;
    most = Math.max(most, Math.abs(value));
  }
  return most >= blockLeast && most <= blockMost;
}
