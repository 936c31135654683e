// Writes one safetensors file, tensor by tensor.
import { createHash } from "node:crypto";
import { type FileHandle, open } from "node:fs/promises";
import { AppError } from "../../crds/common.ts";
import type { SafetensorsDtype } from "./safetensors.ts";

const headerAlignment = 8;
/** Other readers ask for the format, and `--overwrite` for the maker. */
const metadata = { format: "pt", made_by: "enodia" } as const;
const dtypeBytes: Readonly<Record<TensorToWrite["dtype"], number>> = { F32: 4, F16: 2, BF16: 2, U8: 1 };

/** True for files of this writer. */
export const isOurs = (found: Readonly<Record<string, string>>): boolean => found.made_by === metadata.made_by;

export interface TensorToWrite {
  readonly name: string;
  /** U8: bytes with a meaning defined elsewhere. */
  readonly dtype: SafetensorsDtype | "U8";
  readonly shape: readonly number[];
  /** Little-endian bytes, whole or in pieces; called once, in order. */
  read(): Promise<Uint8Array> | AsyncIterable<Uint8Array>;
}

/** Padded with spaces as the format asks. */
export function encodeHeader(tensors: readonly Omit<TensorToWrite, "read">[]): Uint8Array {
  let at = 0;
  const entries = tensors.map(({ name, dtype, shape }) => {
    const begin = at;
    at += shape.reduce((product, size) => product * size, dtypeBytes[dtype]);
    return [name, { dtype, shape, data_offsets: [begin, at] }] as const;
  });
  const json = new TextEncoder().encode(JSON.stringify({ __metadata__: metadata, ...Object.fromEntries(entries) }));
  const length = Math.ceil(json.length / headerAlignment) * headerAlignment;
  const bytes = new Uint8Array(8 + length).fill(0x20);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(length), true);
  bytes.set(json, 8);
  return bytes;
}

export async function writeAll(handle: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  let done = 0;
  while (done < bytes.length) {
    const { bytesWritten } = await handle.write(bytes, done, bytes.length - done, position + done);
    done += bytesWritten;
  }
}

async function writeTensor(
  handle: FileHandle,
  tensor: TensorToWrite,
  position: number,
): Promise<{ readonly bytes: number; readonly sha256: string }> {
  const want = tensor.shape.reduce((product, size) => product * size, dtypeBytes[tensor.dtype]);
  const given = tensor.read();
  const hash = createHash("sha256");
  let bytes = 0;
  for await (const piece of Symbol.asyncIterator in given ? given : [await given]) {
    const writing = bytes + piece.length <= want ? writeAll(handle, piece, position + bytes) : undefined;
    hash.update(piece); // while it is written
    await writing;
    bytes += piece.length;
  }
  if (bytes !== want) throw new AppError(`tensor "${tensor.name}" has ${bytes} bytes, expected ${want}`, { code: "BadTensor" });
  return { bytes, sha256: hash.digest("hex") };
}

/** Returns the SHA-256 of every tensor's bytes. */
export async function writeSafetensors(path: string, tensors: readonly TensorToWrite[]): Promise<Readonly<Record<string, string>>> {
  const header = encodeHeader(tensors);
  const handle = await open(path, "wx");
  const hashes: Record<string, string> = {};
  try {
    await writeAll(handle, header, 0);
    let at = header.length;
    for (const tensor of tensors) {
      const { bytes, sha256 } = await writeTensor(handle, tensor, at);
      hashes[tensor.name] = sha256;
      at += bytes;
    }
    await handle.sync();
  } finally {
    await handle.close();
  }
  return hashes;
}
