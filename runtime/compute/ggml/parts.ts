// The weights of a shape of expert as matrices: on the processor those that multiply the same rows, as gate and up do, lie one after the
// other and are one product.
import type { Segment } from "../../kernels/segment.ts";
import type { WeightData, WeightForms, Weights } from "../../kernels/weights.ts";
import { weightOf } from "../check.ts";
import type { GgmlDevice } from "./device.ts";
import type { GraphBuilder, Value } from "./graph.ts";
import { type Home, homesOf, type Matrix } from "./homes.ts";
import { dimensions } from "./types.ts";

/** A weight of a shape of expert, or several that are one matrix. */
export interface Part extends Matrix {
  readonly weights: readonly { readonly name: string; readonly rows: number }[];
  readonly home: Home;
  /** A bias, which is added and not multiplied by. */
  readonly vector: boolean;
}

/** A value times the weights of a part. */
export interface Product {
  readonly of: Value;
  readonly value: Value;
}

/** The forms of a segment's weights, which are checked here. */
export const formsOf = (segment: Segment, weights: Weights): WeightForms =>
  Object.fromEntries(segment.weights.map(({ name }) => [name, weightOf(segment, weights, name).form]));

export function partsOf(device: GgmlDevice, segment: Segment, forms: WeightForms): readonly Part[] {
  const matrices = new Map<string, Omit<Part, "home">>();
  for (const { name, shape } of segment.weights) {
    const [rows, columns] = dimensions(shape);
    const type = forms[name] ?? "f32";
    const product = segment.ops.find((op) => op.op === "matMul" && op.weight === name);
    // A GPU's activations want their rows close together, which those of a part of a product are not.
    const key = device.exact && product?.op === "matMul" ? `${product.x} ${type} ${columns}` : `one ${name}`;
    const known = matrices.get(key);
    const all = [...(known?.weights ?? []), { name, rows }];
    matrices.set(key, { type, columns, weights: all, rows: rows + (known?.rows ?? 0), vector: shape.length === 1 });
  }
  return [...matrices.values()].map((matrix) => ({ ...matrix, home: homesOf(device).of(matrix) }));
}

/** The part that a weight belongs to. */
export const partIndex = (parts: readonly Part[], name: string): number =>
  parts.findIndex(({ weights }) => weights.some((weight) => weight.name === name));

/** Those columns of a part's product [part.rows, rows] that are one weight's own: [its rows, rows], where they are. */
export function columnsOf(build: GraphBuilder, { product, part, rows }: { product: Value; part: Part; rows: number }, name: string): Value {
  if (part.weights.length === 1) return product;
  const at = part.weights.findIndex((weight) => weight.name === name);
  const before = part.weights.slice(0, at).reduce((sum, weight) => sum + weight.rows, 0);
  const bytes = Float32Array.BYTES_PER_ELEMENT;
  const own = part.weights[at]?.rows ?? 0;
  const view = build.device.ggml.ggml_view_2d(build.context, product.tensor, own, rows, part.rows * bytes, before * bytes);
  return build.view(view, product);
}

/** The bytes of a part: those of its weights one after the other. */
export function dataOf(part: Part, weights: Weights): NodeJS.TypedArray {
  const arrays = part.weights.map(({ name }) => (weights[name] as WeightData).data);
  const [first] = arrays;
  if (arrays.length === 1 && first !== undefined) return first;
  return Buffer.concat(arrays.map(({ buffer, byteOffset, byteLength }) => new Uint8Array(buffer, byteOffset, byteLength)));
}
