// An expert's weights as matrices. On the processor, matrices that multiply the same rows (gate and up) lie together and are one product.
import type { Segment } from "../../kernels/segment.ts";
import type { WeightData, WeightForms, Weights } from "../../kernels/weights.ts";
import { weightOf } from "../call-checks.ts";
import type { GgmlDevice } from "./device.ts";
import type { GraphBuilder, Value } from "./graph.ts";
import { type Matrix, type MatrixStorage, storagesOf } from "./matrix-storage.ts";
import { dimensions, fasterRows, weightBytes } from "./types.ts";

/** One weight, or several that form one matrix. */
export interface Part extends Matrix {
  readonly weights: readonly { readonly name: string; readonly rows: number }[];
  readonly storage: MatrixStorage;
  /** A bias: added, not multiplied. */
  readonly vector: boolean;
}

export interface Product {
  readonly of: Value;
  readonly value: Value;
}

export const formsOf = (segment: Segment, weights: Weights): WeightForms =>
  Object.fromEntries(segment.weights.map(({ name }) => [name, weightOf(segment, weights, name).form]));

export function partsOf(device: GgmlDevice, segment: Segment, forms: WeightForms): readonly Part[] {
  const matrices = new Map<string, Omit<Part, "storage">>();
  for (const { name, shape } of segment.weights) {
    const [rows, columns] = dimensions(shape);
    const type = forms[name] ?? "f32";
    const product = segment.ops.find((op) => op.op === "matMul" && op.weight === name);
    // Activations on a GPU need contiguous rows, which a column range of a product does not have.
    const key = device.exact && product?.op === "matMul" ? `${product.x} ${type} ${columns}` : `one ${name}`;
    const known = matrices.get(key);
    const all = [...(known?.weights ?? []), { name, rows }];
    matrices.set(key, { type, columns, weights: all, rows: rows + (known?.rows ?? 0), vector: shape.length === 1 });
  }
  return [...matrices.values()].map((matrix) => ({ ...matrix, storage: storagesOf(device).of(matrix) }));
}

export const partIndex = (parts: readonly Part[], name: string): number =>
  parts.findIndex(({ weights }) => weights.some((weight) => weight.name === name));

/** Rounds up where a few more rows are faster. */
export const computedRows = (parts: readonly Part[], rows: number): number =>
  Math.min(...parts.flatMap(({ storage, vector }) => (vector ? [] : [storage.exact ? fasterRows(rows, storage.memory.name) : rows])));

/** The columns [its rows, rows] of one weight within a part's product, without a copy. */
export function columnsOf(build: GraphBuilder, { product, part, rows }: { product: Value; part: Part; rows: number }, name: string): Value {
  if (part.weights.length === 1) return product;
  const at = part.weights.findIndex((weight) => weight.name === name);
  const before = part.weights.slice(0, at).reduce((sum, weight) => sum + weight.rows, 0);
  const bytes = Float32Array.BYTES_PER_ELEMENT;
  const own = part.weights[at]?.rows ?? 0;
  const view = build.device.ggml.ggml_view_2d(build.context, product.tensor, own, rows, part.rows * bytes, before * bytes);
  return build.view(view, product);
}

export interface Piece {
  readonly rows: number;
  /** Offset in the part's memory. */
  readonly at: number;
  readonly data: Uint8Array;
}

/** Packed memory interleaves this number of rows, or a divisor. */
const packedTogether = 32;

/** One for each weight whose rows are packed apart from the others' of the part, or one for all. */
export function piecesOf(part: Part, weights: Weights): readonly Piece[] {
  const { type, columns, rows, storage } = part;
  const { name } = storage.memory;
  const apart = name === "plain" || part.weights.every((each) => each.rows % packedTogether === 0);
  const rowBytes = name === "plain" ? weightBytes(type, [columns]) : storage.bytes / rows;
  const datas = part.weights.map((each) => bytesOf((weights[each.name] as WeightData).data));
  if (!apart && datas.length > 1) return [{ rows, at: 0, data: Buffer.concat(datas) }];
  let end = 0;
  return part.weights.map((each, i) => {
    end += each.rows;
    return { rows: each.rows, at: (end - each.rows) * rowBytes, data: datas[i] as Uint8Array };
  });
}

const bytesOf = ({ buffer, byteOffset, byteLength }: NodeJS.TypedArray): Uint8Array => new Uint8Array(buffer, byteOffset, byteLength);
