// Resident bytes of sessions, as measured with onnxruntime-node 1.30 (fresh process, resident set over dozens of sessions,
// MALLOC_MMAP_THRESHOLD_=1048576 so that the allocator gives big buffers back; without it f32 takes twice as much).
// f32: 0.99-1.1 x the weights (prepacked, originals dropped); quantised: 1.5-2.1 x (scales stay beside the packed form).
import type { Segment } from "../../kernels/segment.ts";
import { type PlainForm, plainForm, type WeightForm } from "../../kernels/weights.ts";

const f32Factor = 1.08;
const quantizedFactor = 2;
const sessionBytes = 200 * 1024;

/** Bytes per weight of a block of 32: values, f32 scale, packed zero point. */
const int4BytesPerValue = (16 + 4 + 0.5) / 32;

export function residentBytes(f32Bytes: number, quantizedBytes: number, sessions: number): number {
  return Math.ceil(f32Bytes * f32Factor + quantizedBytes * quantizedFactor + sessions * sessionBytes);
}

/** Upper bound before loading. Vectors (biases) stay f32 in every form, and blocks of ggml become f32. */
export function expertBytes(segment: Segment, form: WeightForm, sessions: number): number {
  const shapes = segment.weights.map(({ shape }) => shape);
  const [vectors, matrices] = [shapes.filter(({ length }) => length === 1), shapes.filter(({ length }) => length !== 1)];
  const [vectorBytes, values] = [4 * valuesOf(vectors), valuesOf(matrices)];
  const rows = matrices.reduce((sum, [n = 0]) => sum + n, 0);
  const byForm: Readonly<Record<PlainForm, () => number>> = {
    f32: () => residentBytes(vectorBytes + values * 4, 0, sessions),
    // Rows of an odd number of blocks pad their zero points by half a byte.
    int4: () => residentBytes(vectorBytes, values * int4BytesPerValue + rows * sessions, sessions),
  };
  return byForm[plainForm(form)]();
}

const valuesOf = (shapes: readonly (readonly number[])[]): number =>
  shapes.reduce((sum, shape) => sum + shape.reduce((a, b) => a * b, 1), 0);
