// What an expert loses in each way to store it: the error of its gated outputs on a text's rows (MC-MoE), with matrices rounded by how
// much their inputs matter there.
import type { Backend } from "../../compute/backend.ts";
import type { Rounder } from "../../compute/rounder.ts";
import type { GgmlForm } from "../../kernels/ggml/index.ts";
import type { Segment } from "../../kernels/segment.ts";
import { asF32, type WeightData, type Weights } from "../../kernels/weights.ts";
import { valuesOf } from "../../kernels/widths.ts";
import { isBias } from "../../weights/codecs/codec.ts";
import { codedFormat, type ExpertForm, storedWeight } from "../../weights/stored.ts";
import { type ExpertUse, outputOf } from "./calibrate.ts";
import { type Importance, partOf } from "./part.ts";
import type { StoredTypes } from "./types.ts";

/** Rows of a text by which a way is judged; more change errors by a few percent. */
const sampleRowsMax = 512;
/** A part of the mean, so that no column counts nothing. */
const importanceLeast = 1e-3;

export interface Measured {
  /** The rows that choose it, in all. */
  readonly rows: number;
  readonly gateSum: number;
  readonly importance: Importance;
  /** Frobenius norms of what its gated outputs are off, per way, and of the outputs themselves. */
  readonly errors: readonly number[];
  readonly norm: number;
}

interface Sample {
  readonly x: Float32Array;
  readonly y: Float32Array;
  readonly gates: Float32Array;
}

function sampleOf({ rows, x, y, gates }: ExpertUse): Sample {
  const count = Math.min(rows, sampleRowsMax);
  const picked = Array.from({ length: count }, (_, i) => Math.floor((i * rows) / count));
  const take = (from: Float32Array): Float32Array => {
    const width = from.length / Math.max(1, rows);
    const out = new Float32Array(count * width);
    for (const [i, row] of picked.entries()) out.set(from.subarray(row * width, (row + 1) * width), i * width);
    return out;
  };
  return { x: take(x), y: take(y), gates: take(gates) };
}

/** The segment up to a value, as its output. */
function upTo(segment: Segment, value: string): Segment {
  const end = segment.ops.findIndex((op) => "out" in op && op.out === value) + 1;
  const ops = segment.ops.slice(0, end);
  const used = new Set(ops.flatMap((op) => Object.values(op)));
  const width = valuesOf(segment).get(value)?.width ?? 0;
  const weights = segment.weights.filter(({ name }) => used.has(name));
  return { ...segment, name: `${segment.name}.${value}`, ops, weights, outputs: [{ name: value, dtype: "f32", width }] };
}

/** One value for each column. */
function meanSquares(rows: Float32Array, columns: number, gates?: Float32Array): Float32Array {
  const sums = new Float32Array(columns);
  for (let at = 0; at < rows.length; at++) {
    const value = (rows[at] as number) * (gates?.[Math.floor(at / columns)] ?? 1);
    sums[at % columns] = (sums[at % columns] as number) + value * value;
  }
  const mean = sums.reduce((sum, each) => sum + each, 0) / columns;
  return mean > 0 && Number.isFinite(mean) ? sums.map((each) => each + importanceLeast * mean) : sums.fill(1);
}

interface Inputs {
  readonly importance: Importance;
  /** The same of gated rows. */
  gated(name: string): Float32Array;
}

async function inputsOf(backend: Backend, { segment, weights, layer }: ExpertUse, { x, gates }: Sample): Promise<Inputs> {
  const [first] = segment.inputs;
  const rowsOf = async (input: string): Promise<Float32Array> =>
    input === first?.name || x.length === 0 ? x : outputOf(backend, { segment: upTo(segment, input), weights, layer }, x);
  const byInput = new Map<string, { readonly rows: Float32Array; readonly squares: Float32Array }>();
  const inputs: Record<string, string> = {};
  for (const op of segment.ops) {
    if (op.op !== "matMul") continue;
    inputs[op.weight] = op.x;
    if (byInput.has(op.x)) continue;
    const rows = await rowsOf(op.x);
    byInput.set(op.x, { rows, squares: meanSquares(rows, (weights[op.weight] as WeightData).shape.at(-1) ?? 1) });
  }
  const of = (name: string) => byInput.get(inputs[name] as string) as { readonly rows: Float32Array; readonly squares: Float32Array };
  return {
    importance: Object.fromEntries(Object.keys(inputs).map((name) => [name, of(name).squares])),
    gated: (name) => meanSquares(of(name).rows, of(name).squares.length, gates),
  };
}

interface Exact {
  readonly weight: WeightData;
  /** In f32, made once. */
  data(): Float32Array;
}

/** Rounds an expert's matrices, each to a type once however many ways share it; a few at a time. */
export class ExpertRounding {
  readonly #rounder: Rounder;
  readonly #threads: number;

  constructor(rounder: Rounder, threads: number) {
    this.#rounder = rounder;
    this.#threads = threads;
  }

  async in(ways: readonly Pick<StoredTypes, "types">[], weights: Weights, importance: Importance): Promise<Weights[]> {
    const names = Object.keys(weights);
    const floats = new Map<string, Float32Array>();
    const floatsOf = (name: string): Float32Array => {
      const known = floats.get(name) ?? asF32(weights[name] as WeightData);
      floats.set(name, known);
      return known;
    };
    const rounded = new Map<string, WeightData>();
    const jobs = new Map<string, () => Promise<unknown>>();
    for (const { types } of ways)
      for (const [i, name] of names.entries()) {
        const [type, key] = [types[i] as ExpertForm, `${types[i]} ${name}`];
        const [weight, data] = [weights[name] as WeightData, () => floatsOf(name)];
        jobs.set(key, async () => rounded.set(key, await this.#one(type, { weight, data }, importance[name])));
      }
    const left = [...jobs.values()];
    const oneByOne = async (): Promise<void> => {
      try {
        for (let job = left.shift(); job !== undefined; job = left.shift()) await job();
      } finally {
        left.length = 0; // also where one fails
      }
    };
    const ended = await Promise.allSettled(Array.from({ length: this.#threads }, oneByOne));
    for (const each of ended) if (each.status === "rejected") throw each.reason;
    return ways.map(({ types }) => Object.fromEntries(names.map((name, i) => [name, rounded.get(`${types[i]} ${name}`) as WeightData])));
  }

  async #one(type: ExpertForm, { weight, data }: Exact, importance: Float32Array | undefined): Promise<WeightData> {
    if (type === weight.form) return weight;
    const { shape } = weight;
    if (type === "f32" || isBias(shape)) return { form: "f32", shape, data: data() };
    const coded = codedFormat(type);
    if (coded) return storedWeight(type, shape, coded.encode(data(), importance));
    const blocks = await this.#rounder.round(type as GgmlForm, { shape, data: data() }, importance);
    return { form: type as GgmlForm, shape, data: blocks };
  }
}

interface Tools {
  readonly backend: Backend;
  readonly rounding: ExpertRounding;
}

/** A sample of its rows and a part of its units stand for all. */
export async function measure(use: ExpertUse, ways: readonly StoredTypes[], { backend, rounding }: Tools): Promise<Measured> {
  const { layer, rows, gates } = use;
  const sample = sampleOf(use);
  const { importance, gated } = await inputsOf(backend, use, sample);
  const counted = { rows, gateSum: gates.reduce((sum, gate) => sum + gate, 0), importance };
  if (rows === 0) return { ...counted, errors: ways.map(() => 0), norm: 0 };
  const width = sample.y.length / sample.gates.length;
  const size = (of: (at: number) => number): number => {
    let sum = 0;
    for (let at = 0; at < sample.y.length; at++) sum += ((sample.gates[Math.floor(at / width)] as number) * of(at)) ** 2;
    return Math.sqrt((sum * rows) / sample.gates.length);
  };
  const norm = size((at) => sample.y[at] as number);
  const part = partOf(use, importance, gated);
  const { segment, weights, importance: own, scale } = part ?? { ...use, importance, scale: 1 };
  const y = part === undefined ? sample.y : await outputOf(backend, { segment, weights, layer }, sample.x);
  const errors: number[] = [];
  for (const coarse of await rounding.in(ways, weights, own)) {
    const got = await outputOf(backend, { segment, weights: coarse, layer }, sample.x);
    errors.push(scale * size((at) => (got[at] as number) - (y[at] as number)));
  }
  return { ...counted, errors, norm };
}
