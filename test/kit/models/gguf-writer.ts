// A writer of GGUF files for tests: metadata and tensors in the layout that llama.cpp's converters write, in one file or several.
import { writeFile } from "node:fs/promises";

/** Numbers are u32, with a fraction f32; an array has the type of its first value, integers in one are i32, as llama.cpp asks it. */
export type GgufMeta = string | number | boolean | readonly (string | number)[];

/** A number that is f32 although it may have no fraction, as llama.cpp asks it. */
export interface GgufFloat {
  readonly f32: number;
}

export interface GgufTensorToWrite {
  readonly name: string;
  /** As stored in row-major order, slowest first: the reverse of what GGUF writes. */
  readonly shape: readonly number[];
  /** ggml's number of the type. */
  readonly type: number;
  readonly data: Uint8Array;
}

/** Tensors begin at multiples of so many bytes. */
export const alignment = 32;

const u32 = (value: number): Buffer => {
  const out = Buffer.alloc(4);
  out.writeUInt32LE(value);
  return out;
};
const u64 = (value: number): Buffer => {
  const out = Buffer.alloc(8);
  out.writeBigUInt64LE(BigInt(value));
  return out;
};
const text = (value: string): Buffer => Buffer.concat([u64(Buffer.byteLength(value)), Buffer.from(value)]);

function scalar(value: string | number | boolean): { readonly type: number; readonly bytes: Buffer } {
  if (typeof value === "string") return { type: 8, bytes: text(value) };
  if (typeof value === "boolean") return { type: 7, bytes: Buffer.of(value ? 1 : 0) };
  return Number.isInteger(value) ? { type: value < 0 ? 5 : 4, bytes: u32(value >>> 0) } : float(value);
}

function float(value: number): { readonly type: number; readonly bytes: Buffer } {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(value);
  return { type: 6, bytes };
}

const integers = { unsigned: 4, signed: 5 } as const;
const isList = (value: GgufMeta | GgufFloat): value is readonly (string | number)[] => Array.isArray(value);

function meta(value: GgufMeta | GgufFloat): Buffer {
  if (!isList(value)) {
    const { type, bytes } = typeof value === "object" ? float(value.f32) : scalar(value);
    return Buffer.concat([u32(type), bytes]);
  }
  const items = value.map(scalar);
  const type = items[0]?.type ?? integers.unsigned;
  return Buffer.concat([
    u32(9),
    u32(type === integers.unsigned ? integers.signed : type),
    u64(items.length),
    ...items.map(({ bytes }) => bytes),
  ]);
}

/** The header of a file and where its tensors begin; `data` of a tensor may be left out where only the header is wanted. */
export function ggufHeader(
  metadata: Readonly<Record<string, GgufMeta | GgufFloat>>,
  tensors: readonly { readonly name: string; readonly shape: readonly number[]; readonly type: number; readonly bytes: number }[],
): Buffer {
  let offset = 0;
  const infos = tensors.map(({ name, shape, type, bytes }) => {
    const info = [text(name), u32(shape.length), ...shape.toReversed().map(u64), u32(type), u64(offset)];
    offset += Math.ceil(bytes / alignment) * alignment;
    return Buffer.concat(info);
  });
  const entries = Object.entries(metadata).map(([key, value]) => Buffer.concat([text(key), meta(value)]));
  const header = Buffer.concat([Buffer.from("GGUF"), u32(3), u64(tensors.length), u64(entries.length), ...entries, ...infos]);
  return Buffer.concat([header, Buffer.alloc(-header.length & (alignment - 1))]);
}

export function ggufBytes(metadata: Readonly<Record<string, GgufMeta | GgufFloat>>, tensors: readonly GgufTensorToWrite[]): Buffer {
  const header = ggufHeader(
    metadata,
    tensors.map((tensor) => ({ ...tensor, bytes: tensor.data.length })),
  );
  return Buffer.concat([header, ...tensors.flatMap(({ data }) => [data, Buffer.alloc(-data.length & (alignment - 1))])]);
}

/** Writes a model in `files` files, named as llama.cpp names them; returns the path of the first. */
export async function writeSplitGguf(
  stem: string,
  metadata: Readonly<Record<string, GgufMeta>>,
  tensors: readonly GgufTensorToWrite[],
  files: number,
): Promise<string> {
  const name = (index: number) => `${stem}-${String(index + 1).padStart(5, "0")}-of-${String(files).padStart(5, "0")}.gguf`;
  for (let index = 0; index < files; index++) {
    const own = tensors.filter((_, i) => i % files === index);
    const split = { "split.no": index, "split.count": files, "split.tensors.count": tensors.length };
    await writeFile(name(index), ggufBytes(index === 0 ? { ...metadata, ...split } : split, own));
  }
  return name(0);
}
