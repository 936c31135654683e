// A part of an expert that stands for all of it: those units between its matrices that say the most. Rounding changes a unit by about a
// part of what it says, so errors of all units are those of the part, by what both say.
import type { Segment } from "../../kernels/segment.ts";
import { asF32, type WeightData, type Weights } from "../../kernels/weights.ts";

/** Blocks of all types end at its multiples. */
const blockUnits = 256;
/** The part of all units that stands for them. */
const share = 1 / 4;

/** How much each matrix's columns count, by weight. */
export type Importance = Readonly<Record<string, Float32Array>>;

interface Part {
  readonly segment: Segment;
  readonly weights: Weights;
  readonly importance: Importance;
  /** The ratio of all units' errors to those of the part. */
  readonly scale: number;
}

interface Expert {
  readonly segment: Segment;
  readonly weights: Weights;
}

/** For each block of units: squares of what they put into the last matrix, by squares of their columns in it. */
function energies(weight: WeightData, squares: Float32Array): Float64Array {
  const columns = squares.length;
  const sums = new Float64Array(Math.ceil(columns / blockUnits));
  for (const [at, value] of asF32(weight).entries()) {
    const column = at % columns;
    const block = Math.floor(column / blockUnits);
    sums[block] = (sums[block] as number) + (squares[column] as number) * value * value;
  }
  return sums;
}

/** Elements of its array, floats or bytes of blocks, stand for values evenly. */
function picked(weight: WeightData, blocks: readonly number[], by: "rows" | "columns"): WeightData {
  const { shape, data } = weight;
  const [height = 0, width = 0] = shape;
  const [lines, line] = by === "rows" ? [1, data.length] : [height, data.length / height];
  const piece = (line / (by === "rows" ? height : width)) * blockUnits;
  const out = data.slice(0, lines * blocks.length * piece);
  for (let at = 0; at < lines; at++)
    for (const [i, block] of blocks.entries())
      out.set(data.subarray(at * line + block * piece, at * line + (block + 1) * piece), (at * blocks.length + i) * piece);
  const units = blocks.length * blockUnits;
  return { ...weight, shape: by === "rows" ? [units, width] : [height, units], data: out } as WeightData;
}

/**
 * Undefined for an expert of few units, or of another build than two layers without biases. `squares`: of the columns that a matrix meets,
 * by gates.
 */
export function partOf({ segment, weights }: Expert, importance: Importance, squares: (name: string) => Float32Array): Part | undefined {
  const [{ name: input }] = segment.inputs as [Segment["inputs"][number]];
  const products = segment.ops.filter((op) => op.op === "matMul");
  const by = new Map(products.map(({ x, weight }) => [weight, x === input ? "rows" : "columns"] as const));
  const units = new Set(segment.weights.map(({ name, shape }) => shape[by.get(name) === "rows" ? 0 : 1]));
  const last = products.filter(({ x }) => x !== input).map(({ weight }) => weight);
  const [all = 0] = units;
  const count = Math.ceil((share * all) / blockUnits);
  if (units.size !== 1 || by.size !== segment.weights.length || last.length !== 1 || 2 * count * blockUnits > all) return undefined;
  const [name] = last as [string];
  const own = energies(weights[name] as WeightData, squares(name));
  const whole = [...own.keys()].slice(0, Math.floor(all / blockUnits));
  const blocks = whole
    .sort((a, b) => (own[b] as number) - (own[a] as number))
    .slice(0, count)
    .sort((a, b) => a - b);
  const part = Object.fromEntries(Object.entries(weights).map(([each, weight]) => [each, picked(weight, blocks, by.get(each) ?? "rows")]));
  const columns = (of: Float32Array): Float32Array =>
    (picked({ form: "f32", shape: [1, of.length], data: of }, blocks, "columns") as { readonly data: Float32Array }).data;
  const sumOf = (values: Iterable<number>): number => [...values].reduce((sum, each) => sum + each, 0);
  return {
    segment: {
      ...segment,
      name: `${segment.name}.part`,
      weights: segment.weights.map((each) => ({ name: each.name, shape: part[each.name]?.shape ?? each.shape })),
    },
    weights: part,
    importance: { ...importance, [name]: columns(importance[name] as Float32Array) },
    scale: Math.sqrt(sumOf(own) / (sumOf(blocks.map((block) => own[block] as number)) || 1)),
  };
}
