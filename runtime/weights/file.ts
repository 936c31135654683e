// Positional reads from a regular file, with the size known and every read checked against it. Shell.
import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { AppError } from "../../crds/common.ts";

const readChunkBytes = 64 * 1024 * 1024;

export interface RandomFile {
  readonly path: string;
  readonly size: number;
  /** Exactly `length` bytes from `position`; throws `code` when the file is shorter. The array is freshly allocated and 8-byte aligned. */
  read(position: number, length: number): Promise<Uint8Array>;
  close(): Promise<void>;
}

async function openHandle(path: string, code: string): Promise<FileHandle> {
  try {
    return await open(path, constants.O_RDONLY);
  } catch (cause) {
    throw new AppError(`${path}: cannot be opened (${(cause as NodeJS.ErrnoException).code ?? cause})`, {
      code,
      operation: "opening a model file",
      cause,
    });
  }
}

/** `code` is the AppError code of everything wrong with this file: BadSafetensors, BadGguf, CorruptShard. */
export async function openFile(path: string, code: string): Promise<RandomFile> {
  const handle = await openHandle(path, code);
  const info = await handle.stat();
  if (!info.isFile()) {
    await handle.close();
    throw new AppError(`${path}: is not a regular file`, { code, operation: "opening a model file" });
  }
  const size = info.size;
  return {
    path,
    size,
    async read(position, length) {
      if (!Number.isSafeInteger(position) || !Number.isSafeInteger(length) || position < 0 || length < 0 || position + length > size) {
        throw new AppError(`${path}: needs bytes ${position}..${position + length} but the file has ${size}; it is truncated or broken`, {
          code,
        });
      }
      const bytes = new Uint8Array(length);
      let done = 0;
      while (done < length) {
        const { bytesRead } = await handle.read(bytes, done, Math.min(readChunkBytes, length - done), position + done);
        if (bytesRead === 0) throw new AppError(`${path}: ended at byte ${position + done} while being read`, { code });
        done += bytesRead;
      }
      return bytes;
    },
    close: () => handle.close(),
  };
}
