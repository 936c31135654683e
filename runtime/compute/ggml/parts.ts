// The weights of a shape of expert as matrices: on the processor those that multiply the same rows, as gate and up do, lie one after the
// other and are one product.
import type { Segment } from "../../kernels/segment.ts";
import type { WeightData, WeightForms, Weights } from "../../kernels/weights.ts";
import { weightOf } from "../check.ts";
import type { GgmlDevice } from "./device.ts";
import type { GraphBuilder, Value } from "./graph.ts";
import { type Home, homesOf, type Matrix } from "./homes.ts";
import { dimensions, weightBytes } from "./types.ts";

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

/** Rows of a part that are written at once. */
export interface Piece {
  readonly rows: number;
  /** Bytes from the part's start to theirs. */
  readonly at: number;
  readonly data: NodeJS.TypedArray;
}

/** Packed memory interleaves so many rows, or a number that divides it. */
const packedTogether = 32;

/** Bytes of a part as it is stored. */
export const bytesIn = ({ type, rows, columns }: Matrix): number => weightBytes(type, [rows, columns]);

/** The weights of a part, each as it came where rows of one are not packed with rows of another; else all as one. */
export function piecesOf(part: Part, weights: Weights): readonly Piece[] {
  const { type, columns, rows, home } = part;
  const pieces: (Piece & { readonly data: WeightData["data"] })[] = [];
  let at = 0;
  for (const { name, rows: own } of part.weights) {
    pieces.push({ rows: own, at, data: (weights[name] as WeightData).data });
    at += bytesIn({ type, columns, rows: own });
  }
  const apart =
    home.memory.name === "plain" || (home.memory.name === "CPU_REPACK" && pieces.every((each) => each.rows % packedTogether === 0));
  if (apart || pieces.length === 1) return pieces;
  const views = pieces.map(({ data: { buffer, byteOffset, byteLength } }) => new Uint8Array(buffer, byteOffset, byteLength));
  return [{ rows, at: 0, data: Buffer.concat(views) }];
}
