// The weights of a shape of expert as matrices: on the processor those that multiply the same rows, as gate and up do, lie one after the
// other and are one product.
import type { Segment } from "../../kernels/segment.ts";
import type { WeightData, WeightForms, Weights } from "../../kernels/weights.ts";
import { weightOf } from "../call-checks.ts";
import type { GgmlDevice } from "./device.ts";
import type { GraphBuilder, Value } from "./graph.ts";
import { type Matrix, type MatrixStorage, storagesOf } from "./matrix-storage.ts";
import { dimensions, weightBytes } from "./types.ts";

/** A weight of a shape of expert, or several that are one matrix. */
export interface Part extends Matrix {
  readonly weights: readonly { readonly name: string; readonly rows: number }[];
  readonly storage: MatrixStorage;
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
  const matrices = new Map<string, Omit<Part, "storage">>();
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
  return [...matrices.values()].map((matrix) => ({ ...matrix, storage: storagesOf(device).of(matrix) }));
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
  readonly data: Uint8Array;
}

/** Packed memory interleaves so many rows, or a number that divides it. */
const packedTogether = 32;

/** The weights of a part, as they came, where rows of one are not packed with rows of another, and in pieces of at most so many bytes, or
 *  of the fewest rows that can be packed. */
export function piecesOf(part: Part, weights: Weights, bytesMax: number): readonly Piece[] {
  const { type, columns, rows, storage } = part;
  const rowBytes = weightBytes(type, [columns]);
  const most = packedTogether * Math.max(1, Math.floor(bytesMax / (packedTogether * rowBytes)));
  const { name } = storage.memory;
  const apart = name === "plain" || (name === "CPU_REPACK" && part.weights.every((each) => each.rows % packedTogether === 0));
  const datas = part.weights.map((each) => (weights[each.name] as WeightData).data);
  if (!apart && datas.length > 1) return [{ rows, at: 0, data: Buffer.concat(datas.map(bytesOf)) }];
  const pieces: Piece[] = [];
  let at = 0;
  for (const [i, { rows: own }] of part.weights.entries()) {
    const bytes = bytesOf(datas[i] as WeightData["data"]);
    const step = apart ? most : own;
    for (let from = 0; from < own; from += step) {
      const data = bytes.subarray(from * rowBytes, (from + step) * rowBytes);
      pieces.push({ rows: Math.min(step, own - from), at, data });
      at += data.byteLength;
    }
  }
  return pieces;
}

const bytesOf = ({ buffer, byteOffset, byteLength }: NodeJS.TypedArray): Uint8Array => new Uint8Array(buffer, byteOffset, byteLength);
