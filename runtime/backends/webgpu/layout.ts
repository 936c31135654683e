// The layout of weights on the device: [K][N] with four columns to a vector, so that neighbouring threads read neighbouring bytes;
// wide matrices in panels of columns, each within the GPU's binding limit. Pure.
import { blockSize, byPlainForm, type PlainForm, type PlainWeight } from "../../kernels/weights.ts";

/** Columns n0 .. n0 + columns of a matrix, in its own buffers. */
export interface Panel {
  readonly first: number;
  readonly columns: number;
  /** f32: [K][N4] vec4<f32>. int4: words [K/8][N4] vec4<u32>, scales and zeros [K/32][N4] vec4<f32>. */
  readonly parts: readonly (Float32Array | Uint32Array)[];
}

export const vectorWidth = 4;
/** Values of one column in a 32-bit word of an int4 matrix. */
const valuesPerWord = 8;
/** Tile of the blocked transposition: rows and columns that stay in cache together. */
const tile = 32;

export const vectors = (columns: number): number => Math.ceil(columns / vectorWidth);

/** source [rows, width] (a slice of rows) to [width][rows padded to a vector], 0 in the padding. */
function transpose<T extends Float32Array | Uint32Array>(
  source: ArrayLike<number>,
  shape: { first: number; rows: number; width: number },
  into: T,
): T {
  const { first, rows, width } = shape;
  const stride = vectors(rows) * vectorWidth;
  for (let r0 = 0; r0 < rows; r0 += tile) {
    for (let c0 = 0; c0 < width; c0 += tile) {
      const rowEnd = Math.min(rows, r0 + tile);
      const columnEnd = Math.min(width, c0 + tile);
      for (let c = c0; c < columnEnd; c++) {
        for (let r = r0; r < rowEnd; r++) into[c * stride + r] = source[(first + r) * width + c] as number;
      }
    }
  }
  return into;
}

/** Words of an int4 matrix: q bytes hold two values, low nibble first, so four bytes little-endian are eight values in order. */
function wordsOf(q: Uint8Array): Uint32Array {
  if (q.byteOffset % 4 === 0) return new Uint32Array(q.buffer, q.byteOffset, q.byteLength / 4);
  return new Uint32Array(q.slice().buffer);
}

/** Bytes on the device of one column of K values: its largest part, and all parts together. */
const columnBytes: Readonly<Record<PlainForm, (k: number) => { readonly largest: number; readonly all: number }>> = {
  f32: (k) => ({ largest: 4 * k, all: 4 * k }),
  int4: (k) => ({ largest: (4 * k) / valuesPerWord, all: 4 * (k / valuesPerWord) + 2 * 4 * (k / blockSize) }),
};

/** Bytes that a matrix [N, K] takes on the device, padding included. */
export function matrixBytes(form: PlainForm, shape: readonly number[]): number {
  const [n = 1, k = 1] = shape;
  return vectors(n) * vectorWidth * columnBytes[form](k).all;
}

/** A projection [N, K] as panels, none of whose parts exceeds `bindingBytes`. */
export function matrixPanels(weight: PlainWeight, bindingBytes: number): Panel[] {
  const [n = 1, k = 1] = weight.shape;
  const columnsMax = Math.max(vectorWidth, Math.floor(bindingBytes / columnBytes[weight.form](k).largest / vectorWidth) * vectorWidth);
  const panels: Panel[] = [];
  for (let first = 0; first < n; first += columnsMax) {
    const columns = Math.min(columnsMax, n - first);
    panels.push({ first, columns, parts: partsOf(weight, k, first, columns) });
  }
  return panels;
}

function partsOf(weight: PlainWeight, k: number, first: number, columns: number): Panel["parts"] {
  const stride = vectors(columns) * vectorWidth;
  return byPlainForm<Panel["parts"]>(weight, {
    f32: ({ data }) => [transpose(data, { first, rows: columns, width: k }, new Float32Array(stride * k))],
    int4({ q, s, z }) {
      const words = k / valuesPerWord;
      const blocks = k / blockSize;
      return [
        transpose(wordsOf(q), { first, rows: columns, width: words }, new Uint32Array(stride * words)),
        transpose(s, { first, rows: columns, width: blocks }, new Float32Array(stride * blocks)),
        transpose(z, { first, rows: columns, width: blocks }, new Float32Array(stride * blocks)),
      ];
    },
  });
}

/** A lookup table [rows, width] as panels of whole rows. */
export function tablePanels(data: Float32Array, shape: readonly number[], bindingBytes: number): Panel[] {
  const [rows = 1, width = 1] = shape;
  const rowsMax = Math.max(1, Math.floor(bindingBytes / (4 * width)));
  const panels: Panel[] = [];
  for (let first = 0; first < rows; first += rowsMax) {
    const columns = Math.min(rowsMax, rows - first);
    panels.push({ first, columns, parts: [data.subarray(first * width, (first + columns) * width)] });
  }
  return panels;
}

/** Workgroups as a grid that fits the GPU's limit per dimension; kernels number them y * grid.x + x and stop at their total. */
export function grid(groups: number, perDimension: number): readonly [number, number] {
  const x = Math.min(groups, perDimension);
  return [x, Math.ceil(groups / x)];
}
