// Rows as halves for ranks that need no exact bits: f16, each row with a power of two by which its values are multiplied, so that none
// overflows and small rows lose nothing. An eighth of the error of bf16 in as many bytes. Pure.
// Layout, all LE: f32 scale of each row, f16 values of each row. Not here: who may ask for them (lane-codec.ts).

/** The bytes of one row. */
export const halfRowBytes = (width: number): number => 4 + 2 * width;

/** The largest value of a row comes to lie here: below the end of f16, and far above where it begins to lose bits. */
const topExponent = 14;

/** rows [n, width] as bytes; each value is off by at most 2^-11 of itself, or 2^-39 of its row's largest. Infinity and NaN stay so. */
export function encodeHalfRows(data: Float32Array, width: number): Uint8Array {
  const rows = data.length / width;
  const bytes = new ArrayBuffer(rows * halfRowBytes(width));
  const scales = new Float32Array(bytes, 0, rows);
  const halves = new Float16Array(bytes, 4 * rows);
  const words = new Uint32Array(data.buffer, data.byteOffset, data.length);
  for (let row = 0; row < rows; row++) {
    const [from, to] = [row * width, (row + 1) * width];
    const scale = 2 ** (exponentOf(words, from, to) - topExponent);
    scales[row] = scale;
    for (let i = from; i < to; i++) halves[i] = (data[i] as number) / scale;
  }
  return new Uint8Array(bytes);
}

/** The exponent of the largest finite value; the least where all are 0. */
function exponentOf(words: Uint32Array, from: number, to: number): number {
  let most = 0;
  for (let i = from; i < to; i++) {
    const size = (words[i] as number) & 0x7fffffff;
    if (size > most && size < 0x7f800000) most = size;
  }
  return Math.max(most >>> 23, 1) - 127;
}

/** The rows of so many whole ones, whatever else the bytes are. */
export function decodeHalfRows(bytes: Uint8Array, width: number): Float32Array {
  const rows = Math.floor(bytes.byteLength / halfRowBytes(width));
  const aligned = bytes.byteOffset % 4 === 0 ? bytes : new Uint8Array(bytes);
  const scales = new Float32Array(aligned.buffer, aligned.byteOffset, rows);
  const halves = new Float16Array(aligned.buffer, aligned.byteOffset + 4 * rows, rows * width);
  const data = new Float32Array(rows * width);
  for (let row = 0; row < rows; row++) {
    const scale = scales[row] as number;
    for (let i = row * width; i < (row + 1) * width; i++) data[i] = (halves[i] as number) * scale;
  }
  return data;
}
