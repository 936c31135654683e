// Element types of tensors, and which CPU products keep bits.
import { type GgmlForm, ggmlBytes, ggmlFormats } from "../../kernels/ggml/index.ts";
import type { WeightForm } from "../../kernels/weights.ts";

const plainTypes = { f32: 0, i32: 26, i64: 27 } as const;

export type WeightType = "f32" | GgmlForm;
export type TensorType = WeightType | keyof typeof plainTypes;

export function numberOf(type: TensorType): number {
  return type === "f32" || type === "i32" || type === "i64" ? plainTypes[type] : ggmlFormats[type].type;
}

export function weightBytes(type: WeightType, shape: readonly number[]): number {
  const values = shape.reduce((product, size) => product * size, 1);
  return type === "f32" ? values * Float32Array.BYTES_PER_ELEMENT : ggmlBytes(type, values);
}

/** Memory types by ggml's names; all but the plain one rearrange matrices. */
export type MemoryName = "plain" | "CPU_REPACK" | "AMX";

/** By memory type, the types whose `mul_mat` keeps a row's bits for any number of rows (../DECISIONS.md 4). */
const exactByMulMat: Readonly<Record<MemoryName, ReadonlySet<WeightType>>> = {
  plain: new Set(["q8_0", "q4_0", "q4_1", "q5_0", "mxfp4", "q4_K", "q5_K", "q6_K", "iq4_xs"]),
  CPU_REPACK: new Set(["q4_0", "iq4_nl", "mxfp4"]),
  AMX: new Set(["q8_0", "q4_0", "q4_1", "q4_K", "q5_K", "q6_K", "iq4_xs"]),
};

/** CPUs with AVX but no AVX2 have a separate kernel for several rows of these types. */
export const avxAlone: ReadonlySet<string> = new Set(["sandybridge", "ivybridge", "piledriver"]);
const notByAvxAlone: ReadonlySet<WeightType> = new Set(["q8_0", "q4_0"]);

export function multipliesExactly(type: WeightType, memory: MemoryName, cpuBuild: string): boolean {
  if (memory === "plain" && avxAlone.has(cpuBuild) && notByAvxAlone.has(type)) return false;
  return process.arch === "x64" && exactByMulMat[memory].has(type);
}

/** The block of rows at which packed memory is fastest. */
const packedRows = 16;
/** A full block is faster from this remainder on. */
const worthFilling = 14;

/** Rows that `fasterRows` adds at most. */
export const fillingMax = packedRows - worthFilling;

export function fasterRows(rows: number, memory: MemoryName): number {
  const left = rows % packedRows;
  return memory === "CPU_REPACK" && left >= worthFilling ? rows + packedRows - left : rows;
}

/** True for types that AMX stores in tiles. */
const liesInTiles = (type: WeightType): boolean => exactByMulMat.AMX.has(type);

/** A vector is one row. */
export function dimensions(shape: readonly number[]): readonly [rows: number, columns: number] {
  const columns = shape.at(-1) ?? 1;
  return [shape.reduce((product, size) => product * size, 1) / columns, columns];
}

/** Builds of the CPU library that gave the same bits for every weight type, attention and activations. */
const sets: Readonly<Record<string, readonly string[]>> = {
  avx512: ["skylakex", "cannonlake", "cascadelake", "icelake", "cooperlake", "zen4", "sapphirerapids"],
  avx2: ["haswell", "alderlake"],
  avx: ["sandybridge", "ivybridge"],
};
/** Their bf16 instructions round differently from widening. */
const withBf16: ReadonlySet<string> = new Set(["cooperlake", "zen4", "sapphirerapids"]);

/** The builds that compute the same bits for this form; an unmeasured build stands alone. `amx`: quantized matrices lie in tiles. */
export function instructionsOf(build: string, form: WeightForm, amx = false): string {
  const found = Object.entries(sets).find(([, builds]) => builds.includes(build))?.[0] ?? build;
  if (form === "bf16" && withBf16.has(build)) return `${found}-bf16`;
  return amx && liesInTiles(form) ? `${found}-amx` : found;
}
