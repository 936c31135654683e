// The sizes of the KV cache, pure.
import type { KvType } from "../../crds/names.ts";

/** The maximum of positions per block, over all layers. */
const blockTokensMost = 64;

interface KvShape {
  readonly layers: number;
  readonly kvHeads: number;
  readonly context: number;
  readonly headDim: number;
  readonly valueDim: number;
  /** Unset: f32. */
  readonly type?: KvType;
}

/** Values that are stored together, and their bytes. */
const units: Readonly<Record<KvType, { readonly values: number; readonly bytes: number }>> = {
  f32: { values: 1, bytes: 4 },
  f16: { values: 1, bytes: 2 },
  q8_0: { values: 32, bytes: 34 },
};

export const kvBytes = (type: KvType, values: number): number => (values / units[type].values) * units[type].bytes;

/** Rows of f32 at multiples of so many bytes would lie in few sets of a processor's cache, so they are a line apart. */
const [fewSetsBytes, lineBytes] = [2_048, 64];

/** A position's keys or values of a layer. */
export function kvRowBytes({ kvHeads, type = "f32" }: Pick<KvShape, "kvHeads" | "type">, width: number, pageBytes: number): number {
  const bytes = kvHeads * kvBytes(type, width);
  return type === "f32" && pageBytes > 1 && bytes % fewSetsBytes === 0 ? bytes + lineBytes : bytes;
}

/** Keys and values of a position in all layers, without what lies between rows. */
export const kvPositionBytes = ({ layers, kvHeads, headDim, valueDim, type = "f32" }: KvShape): number =>
  layers * kvHeads * (kvBytes(type, headDim) + kvBytes(type, valueDim));

/** The reason why heads of these sizes cannot be stored as this type; undefined if they can. */
export function kvTypeRefuses(type: KvType, { headDim, valueDim }: Pick<KvShape, "headDim" | "valueDim">): string | undefined {
  const { values } = units[type];
  const odd = [headDim, valueDim].find((width) => width % values !== 0);
  return odd === undefined ? undefined : `heads of ${odd} values are not stored as ${type}, which takes ${values} together`;
}

export const kvBlockTokens = (context: number): number => Math.min(blockTokensMost, context);

/** Keys and values of all layers, in multiples of `pageBytes`. */
export function kvBlockBytes(shape: KvShape, pageBytes: number): number {
  const { layers, headDim, valueDim } = shape;
  const tokens = kvBlockTokens(shape.context);
  const bytes = (width: number): number => Math.ceil((tokens * kvRowBytes(shape, width, pageBytes)) / pageBytes) * pageBytes;
  return layers * (bytes(headDim) + bytes(valueDim));
}

/** Blocks of a request that fills the context. */
export const kvBlocksOfContext = (context: number): number => Math.ceil(context / kvBlockTokens(context));
