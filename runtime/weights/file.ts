// Bounded reads of a regular file.
import { constants, type Stats } from "node:fs";
import { type FileHandle, open, stat } from "node:fs/promises";
import { AppError, type Retry } from "../../crds/common.ts";

const readChunkBytes = 64 * 1024 * 1024;

export interface RandomFile {
  readonly path: string;
  readonly size: number;
  /** Throws `code` when the file is shorter. The array is fresh and 8-byte aligned. */
  read(position: number, length: number): Promise<Uint8Array>;
  close(): Promise<void>;
}

/** All others may be transient, such as an absent volume. */
const lastingErrors: readonly string[] = ["ENOENT", "ENOTDIR", "EISDIR", "ELOOP", "ENAMETOOLONG", "ENXIO"];

/** Whether opening the file again may help. */
export function retryOf(cause: unknown): Retry {
  const { code } = cause as NodeJS.ErrnoException;
  return code === undefined || lastingErrors.includes(code) ? "never" : "backoff";
}

/** Undefined where nothing is; rethrows any other error. */
export async function statIfThere(path: string): Promise<Stats | undefined> {
  return stat(path).catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === "ENOENT" || cause.code === "ENOTDIR") return undefined;
    throw cause;
  });
}

function refused(path: string, what: string, code: string, cause?: unknown): AppError {
  const retry = cause === undefined ? "never" : retryOf(cause);
  return new AppError(`${path}: ${what}`, { code, operation: "opening a model file", retry, ...(cause === undefined ? {} : { cause }) });
}

/** A blocking open() of a FIFO without a writer would never return. */
async function openRegular(path: string, code: string): Promise<{ readonly handle: FileHandle; readonly size: number }> {
  const handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK).catch((cause: unknown) => {
    const reason = (cause as NodeJS.ErrnoException).code;
    throw refused(path, reason === "ENOENT" ? "not found" : `cannot be opened (${reason ?? cause})`, code, cause);
  });
  try {
    const info = await handle.stat();
    if (info.isFile()) return { handle, size: info.size };
    throw refused(path, `is ${kindOf(info)}, not a regular file; put the file itself there`, code);
  } catch (caught) {
    await handle.close();
    throw caught;
  }
}

export function kindOf(info: Pick<Stats, "isDirectory" | "isFIFO" | "isSocket" | "isSymbolicLink">): string {
  if (info.isDirectory()) return "a folder";
  if (info.isFIFO()) return "a FIFO";
  if (info.isSymbolicLink()) return "a symbolic link";
  return info.isSocket() ? "a socket" : "a device";
}

/** A text of at most `bytesMax` bytes; `code` as for `openFile`. */
export async function readTextFile(path: string, bytesMax: number, code: string): Promise<string> {
  const { handle, size } = await openRegular(path, code);
  try {
    if (size > bytesMax) throw refused(path, `has ${size} bytes, more than the ${bytesMax} allowed`, code);
    return await handle.readFile("utf8");
  } finally {
    await handle.close();
  }
}

/** A sparse file may claim more than fits in memory. */
function allocate(path: string, length: number, code: string): Uint8Array {
  try {
    return new Uint8Array(length);
  } catch (cause) {
    throw refused(path, `asks for ${length} bytes at once, more than this process can hold`, code, cause);
  }
}

/** `code` is the AppError code of all its errors: BadSafetensors, BadGguf, CorruptShard. */
export async function openFile(path: string, code: string): Promise<RandomFile> {
  const { handle, size } = await openRegular(path, code);
  return {
    path,
    size,
    async read(position, length) {
      if (!Number.isSafeInteger(position) || !Number.isSafeInteger(length) || position < 0 || length < 0 || position + length > size) {
        throw new AppError(`${path}: needs bytes ${position}..${position + length} but the file has ${size}; it is truncated or broken`, {
          code,
        });
      }
      const bytes = allocate(path, length, code);
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
