// Strict reader of one safetensors file. It refuses wrong lengths, overlaps, holes, trailing bytes and unknown dtypes.
import { z } from "zod";
import { AppError } from "../../crds/common.ts";
import { widenBf16, widenF16 } from "../kernels/ggml/half-floats.ts";
import { openFile, type RandomFile } from "./file.ts";
import { viewF32 } from "./floats.ts";
import type { StoredForm } from "./stored.ts";

/** 100 MB, the bound of the reference implementation. */
const headerBytesMax = 100_000_000;
const tensorsMax = 1_000_000;
const dimensionsMax = 8;

/** Types that can be widened, and those of packed tensors (packed.ts). */
const dtypeBytes = { F32: 4, F16: 2, BF16: 2, F8_E4M3: 1, U8: 1, I16: 2, I32: 4 } as const;
type AnyDtype = keyof typeof dtypeBytes;
export type SafetensorsDtype = "F32" | "F16" | "BF16";

const storedForms: Partial<Record<AnyDtype, StoredForm>> = { F32: "f32", F16: "f16", BF16: "bf16" };

/** Undefined for dtypes of packed tensors. */
export const storedFormOfDtype = (dtype: AnyDtype): StoredForm | undefined => storedForms[dtype];

export interface TensorInfo {
  readonly dtype: AnyDtype;
  readonly shape: readonly number[];
  /** Absolute file offset. */
  readonly begin: number;
  readonly end: number;
}

/** Tensors widened to f32 on reading. */
export interface TensorSource {
  readonly names: readonly string[];
  shape(name: string): readonly number[] | undefined;
  read(name: string): Promise<Float32Array>;
  close(): Promise<void>;
}

const entrySchema = z.object({
  dtype: z.string(),
  shape: z.array(z.number().int().min(0).max(Number.MAX_SAFE_INTEGER)).max(dimensionsMax),
  data_offsets: z.tuple([z.number().int().min(0), z.number().int().min(0)]),
});

const metadataKey = "__metadata__";
const metadataSchema = z.record(z.string(), z.string()).nullish();

interface Header {
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  readonly metadata: Readonly<Record<string, string>>;
}

function bad(path: string, what: string, cause?: unknown): AppError {
  return new AppError(`${path}: ${what}; download or export the file again`, {
    code: "BadSafetensors",
    operation: "reading safetensors",
    ...(cause === undefined ? {} : { cause }),
  });
}

interface DataRange {
  readonly path: string;
  readonly dataStart: number;
  readonly fileSize: number;
}

function parseEntry({ path, dataStart, fileSize }: DataRange, name: string, raw: unknown): TensorInfo {
  const parsed = entrySchema.safeParse(raw);
  if (!parsed.success) throw bad(path, `tensor "${name}" has a broken header entry (${parsed.error.issues[0]?.message ?? "invalid"})`);
  const { dtype, shape, data_offsets } = parsed.data;
  if (!Object.hasOwn(dtypeBytes, dtype)) {
    throw new AppError(`${path}: tensor "${name}" has dtype ${dtype}; supported are ${Object.keys(dtypeBytes).join(", ")}`, {
      code: "UnsupportedDtype",
    });
  }
  const [begin, end] = data_offsets;
  const bytes = shape.reduce((product, size) => product * size, dtypeBytes[dtype as AnyDtype]);
  if (!Number.isSafeInteger(bytes) || end - begin !== bytes) {
    throw bad(path, `tensor "${name}" says ${begin}..${end} but its shape [${shape.join(", ")}] of ${dtype} takes ${bytes} bytes`);
  }
  if (dataStart + end > fileSize) throw bad(path, `tensor "${name}" ends at byte ${dataStart + end}, past the file's ${fileSize}`);
  return { dtype: dtype as AnyDtype, shape, begin: dataStart + begin, end: dataStart + end };
}

/** Checks every offset. */
function parseHeader(range: DataRange, text: string): Header {
  const { path, dataStart, fileSize } = range;
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw bad(path, "the header is not JSON", cause);
  }
  if (typeof json !== "object" || json === null || Array.isArray(json)) throw bad(path, "the header is not a JSON object");
  const entries = Object.entries(json).filter(([name]) => name !== metadataKey);
  if (entries.length > tensorsMax) throw bad(path, `the header lists ${entries.length} tensors, more than ${tensorsMax}`);
  const tensors = new Map(entries.map(([name, raw]) => [name, parseEntry(range, name, raw)] as const));
  const ordered = [...tensors].sort((a, b) => a[1].begin - b[1].begin || a[1].end - b[1].end);
  let end = dataStart;
  for (const [name, info] of ordered) {
    if (info.begin < end) throw bad(path, `tensor "${name}" overlaps the one before it`);
    if (info.begin > end) throw bad(path, `tensor "${name}" comes after ${info.begin - end} bytes that belong to no tensor`);
    end = info.end;
  }
  if (end !== fileSize) throw bad(path, `ends in ${fileSize - end} bytes that belong to no tensor`);
  return { tensors, metadata: parseMetadata(path, (json as Record<string, unknown>)[metadataKey]) };
}

function parseMetadata(path: string, raw: unknown): Header["metadata"] {
  const parsed = metadataSchema.safeParse(raw);
  if (parsed.success) return parsed.data ?? {};
  throw bad(path, `${metadataKey} is not a map of texts to texts (${parsed.error.issues[0]?.path.join(".") || "top level"})`);
}

async function readHeader(file: RandomFile): Promise<Header> {
  if (file.size < 8) throw bad(file.path, `has ${file.size} bytes, too few for a header`);
  const head = await file.read(0, 8);
  const length = new DataView(head.buffer).getBigUint64(0, true);
  if (length > BigInt(Math.min(headerBytesMax, file.size - 8))) throw bad(file.path, `says its header has ${length} bytes`);
  const bytes = await file.read(8, Number(length));
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    throw bad(file.path, "the header is not UTF-8", cause);
  }
  return parseHeader({ path: file.path, dataStart: 8 + Number(length), fileSize: file.size }, text);
}

function widen(info: TensorInfo, bytes: Uint8Array): Float32Array {
  const { dtype } = info;
  if (dtype === "F32") return viewF32(bytes);
  if (dtype === "F16") return widenF16(bytes);
  if (dtype === "BF16") return widenBf16(bytes);
  throw new AppError(`a tensor of dtype ${dtype} means nothing without its scales`, { code: "UnsupportedDtype" });
}

export interface SafetensorsFile extends TensorSource {
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  /** The writer's metadata. */
  readonly metadata: Readonly<Record<string, string>>;
  /** The stored bytes, not widened. */
  readRaw(name: string): Promise<Uint8Array>;
  /** `length` bytes from byte `from` of the tensor. */
  readBytes(name: string, from: number, length: number): Promise<Uint8Array>;
}

export async function openSafetensors(path: string, open: typeof openFile = openFile): Promise<SafetensorsFile> {
  const file = await open(path, "BadSafetensors");
  try {
    const { tensors, metadata } = await readHeader(file);
    const find = (name: string): TensorInfo => {
      const info = tensors.get(name);
      if (!info) throw new AppError(`${path}: has no tensor "${name}"`, { code: "MissingTensor", operation: "reading safetensors" });
      return info;
    };
    const readRaw = async (name: string) => {
      const info = find(name);
      return file.read(info.begin, info.end - info.begin);
    };
    return {
      tensors,
      metadata,
      names: [...tensors.keys()],
      shape: (name) => tensors.get(name)?.shape,
      readRaw,
      async readBytes(name, from, length) {
        const { begin, end } = find(name);
        if (from < 0 || length < 0 || begin + from + length > end)
          throw bad(path, `tensor "${name}" has no bytes ${from}..${from + length}`);
        return file.read(begin + from, length);
      },
      read: async (name) => widen(find(name), await readRaw(name)),
      close: () => file.close(),
    };
  } catch (caught) {
    await file.close();
    throw caught;
  }
}

/** Callers may check hashes first. */
export function widenTensor(info: TensorInfo, bytes: Uint8Array): Float32Array {
  return widen(info, bytes);
}
