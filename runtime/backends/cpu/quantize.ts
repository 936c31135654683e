// Weight matrices as MatMulNBits and Gemm want them: slices of rows and columns, int8 blocks, packed zero points. Pure.
// A matrix is [N, K] as Hugging Face stores a projection (out, in). The int4 codec of stored units is weights/codecs.
import { blockSize, byPlainForm, type PlainWeight, type WeightOf } from "../../kernels/weights.ts";

/** A matrix in int8, w = (q - 128) * s per block of 32 along K: the form of the dense part beside int4 experts. */
export interface Int8Weight {
  readonly form: "int8";
  readonly shape: readonly number[];
  readonly q: Uint8Array; // [N, K/32, 32]
  readonly s: Float32Array; // [N, K/32]
}
export type Matrix = PlainWeight | Int8Weight;

const zeroPoint = 128;
const levels = 127;

export function dims(weight: { readonly shape: readonly number[] }): { readonly n: number; readonly k: number } {
  return { n: weight.shape[0] ?? 0, k: weight.shape[1] ?? 0 };
}

export function quantizeInt8(weight: { readonly shape: readonly number[]; readonly data: Float32Array }): Int8Weight {
  const { data, shape } = weight;
  const q = new Uint8Array(data.length);
  const s = new Float32Array(data.length / blockSize);
  for (let block = 0; block < s.length; block++) {
    const from = block * blockSize;
    let max = 0;
    for (let i = from; i < from + blockSize; i++) max = Math.max(max, Math.abs(data[i] as number));
    const scale = Math.fround(max / levels);
    s[block] = scale;
    const inverse = scale > 0 ? 1 / scale : 0;
    for (let i = from; i < from + blockSize; i++) {
      q[i] = zeroPoint + Math.max(-levels, Math.min(levels, Math.round((data[i] as number) * inverse)));
    }
  }
  return { form: "int8", shape, q, s };
}

/** Rows [from, to) without copying. */
export function sliceRows(weight: PlainWeight, from: number, to: number): PlainWeight {
  const { k } = dims(weight);
  const shape = [to - from, k];
  const blocks = k / blockSize;
  return byPlainForm<PlainWeight>(weight, {
    f32: ({ form, data }) => ({ form, shape, data: data.subarray(from * k, to * k) }),
    int4: ({ form, q, s, z }) => ({
      form,
      shape,
      q: q.subarray(from * blocks * 16, to * blocks * 16),
      s: s.subarray(from * blocks, to * blocks),
      z: z.subarray(from * blocks, to * blocks),
    }),
  });
}

/** Columns [from, to), copied. Bounds are multiples of 32 for int4. */
export function sliceColumns(weight: PlainWeight, from: number, to: number): PlainWeight {
  const { n, k } = dims(weight);
  const shape = [n, to - from];
  const [blocks, first, last] = [k / blockSize, from / blockSize, to / blockSize];
  return byPlainForm<PlainWeight>(weight, {
    f32: ({ form, data }) => ({ form, shape, data: columns(data, n, { width: k, from, to }) }),
    int4: ({ form, q, s, z }) => ({
      form,
      shape,
      q: columns(q, n, { width: blocks * 16, from: first * 16, to: last * 16 }),
      s: columns(s, n, { width: blocks, from: first, to: last }),
      z: columns(z, n, { width: blocks, from: first, to: last }),
    }),
  });
}

function columns<T extends Float32Array | Uint8Array>(
  source: T,
  rows: number,
  { width, from, to }: { readonly width: number; readonly from: number; readonly to: number },
): T {
  const out = new (source.constructor as new (length: number) => T)(rows * (to - from));
  for (let row = 0; row < rows; row++) out.set(source.subarray(row * width + from, row * width + to), row * (to - from));
  return out;
}

/** One matrix above another: [N1 + N2 + ..., K]. */
export function stackRows(weights: readonly { readonly shape: readonly number[]; readonly data: Float32Array }[]): WeightOf<"f32"> {
  const k = weights[0]?.shape[1] ?? 0;
  const data = new Float32Array(weights.reduce((sum, weight) => sum + weight.data.length, 0));
  let at = 0;
  for (const weight of weights) {
    data.set(weight.data, at);
    at += weight.data.length;
  }
  return { form: "f32", shape: [data.length / k, k], data };
}

/** [N, K] -> [K, N] */
export function transpose(data: Float32Array, n: number, k: number): Float32Array {
  const out = new Float32Array(data.length);
  const tile = 32;
  for (let i0 = 0; i0 < n; i0 += tile) {
    for (let j0 = 0; j0 < k; j0 += tile) {
      const iEnd = Math.min(n, i0 + tile);
      const jEnd = Math.min(k, j0 + tile);
      for (let i = i0; i < iEnd; i++) for (let j = j0; j < jEnd; j++) out[j * n + i] = data[i * k + j] as number;
    }
  }
  return out;
}

/** One zero point a byte -> two a byte, low nibble first, rows padded to whole bytes. */
export function packZeroPoints(z: Uint8Array, rows: number): Uint8Array {
  const blocks = z.length / rows;
  const width = Math.ceil(blocks / 2);
  const out = new Uint8Array(rows * width);
  for (let row = 0; row < rows; row++) {
    for (let b = 0; b < blocks; b++) {
      const at = row * width + (b >> 1);
      out[at] = (out[at] as number) | ((z[row * blocks + b] as number) << ((b & 1) * 4));
    }
  }
  return out;
}
