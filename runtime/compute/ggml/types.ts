// The number types that tensors have: of weights those that kernels/ggml knows, of activations and indices the plain ones. And what is
// known of their sums on the CPU.

import { type GgmlForm, ggmlBytes, ggmlFormats } from "../../kernels/ggml/index.ts";

const plainTypes = { f32: 0, i32: 26, i64: 27 } as const;

/** The type of a weight. */
export type WeightType = "f32" | GgmlForm;
export type TensorType = WeightType | keyof typeof plainTypes;

/** ggml's number of a type. */
export function numberOf(type: TensorType): number {
  return type === "f32" || type === "i32" || type === "i64" ? plainTypes[type] : ggmlFormats[type].type;
}

export function weightBytes(type: WeightType, shape: readonly number[]): number {
  const values = shape.reduce((product, size) => product * size, 1);
  return type === "f32" ? values * Float32Array.BYTES_PER_ELEMENT : ggmlBytes(type, values);
}

/** Kinds of memory, by ggml's names; in all but the plain one matrices of some types are rearranged. */
export type MemoryName = "plain" | "CPU_REPACK" | "AMX";

/** By kind of memory the types whose `mul_mat` gives a row the same bits however many rows there are; of others only `mul_mat_id` does. */
const exactByMulMat: Readonly<Record<MemoryName, ReadonlySet<WeightType>>> = {
  plain: new Set(["q8_0", "q4_0", "q4_1", "q5_0", "mxfp4", "q4_K", "q5_K", "q6_K", "iq4_xs"]),
  CPU_REPACK: new Set(["q4_0", "iq4_nl", "mxfp4"]),
  AMX: new Set(["q8_0", "q4_0", "q4_1", "q4_K", "q5_K", "q6_K", "iq4_xs"]),
};

/** Builds for processors with AVX and no AVX2 have a kernel of their own for several rows of these types. */
const avxAlone: ReadonlySet<string> = new Set(["sandybridge", "ivybridge", "piledriver"]);
const notByAvxAlone: ReadonlySet<WeightType> = new Set(["q8_0", "q4_0"]);

/** `cpuBuild`: of the CPU library. */
export function multipliesExactly(type: WeightType, memory: MemoryName, cpuBuild: string): boolean {
  if (memory === "plain" && avxAlone.has(cpuBuild) && notByAvxAlone.has(type)) return false;
  return process.arch === "x64" && exactByMulMat[memory].has(type);
}

/** Packed memory multiplies so many rows at once fastest. */
const packedRows = 16;
/** So many rows that are left take longer than a whole block does. */
const worthFilling = 14;

/** Rows to be multiplied in place of so many, the rest of them zeros. */
export function fasterRows(rows: number, memory: MemoryName): number {
  const left = rows % packedRows;
  return memory === "CPU_REPACK" && left >= worthFilling ? rows + packedRows - left : rows;
}

/** True for types that lie in tiles where the processor has them. */
export const liesInTiles = (type: WeightType): boolean => exactByMulMat.AMX.has(type);

/** Rows and columns of a weight; a vector is one row. */
export function dimensions(shape: readonly number[]): readonly [rows: number, columns: number] {
  const columns = shape.at(-1) ?? 1;
  return [shape.reduce((product, size) => product * size, 1) / columns, columns];
}
