// The file of optimizer state that exceeds its memory. It is unlinked once open, so that it ends with the process.
import { randomUUID } from "node:crypto";
import type { FileHandle } from "node:fs/promises";
import { mkdir, open, rm } from "node:fs/promises";
import { join } from "node:path";
import { AppError } from "../../../crds/common.ts";
import { bytesOf } from "../../weights/floats.ts";

export interface StateFile {
  read(arrays: readonly Float32Array[], at: number): Promise<void>;
  write(arrays: readonly Float32Array[], at: number): Promise<void>;
  close(): void;
}

export type OpenStateFile = (bytes: number) => Promise<StateFile>;

const zerosBytes = 2 ** 22;

function restOf(arrays: readonly Uint8Array[], bytes: number): Uint8Array[] {
  let skip = bytes;
  return arrays.flatMap((array) => {
    const from = Math.min(skip, array.length);
    skip -= from;
    return from < array.length ? [array.subarray(from)] : [];
  });
}

type Vectors = (arrays: Uint8Array[], at: number) => Promise<number>;

/** A call may be partial; one without progress is the end of the file. */
async function whole(run: Vectors, arrays: readonly Float32Array[], at: number): Promise<void> {
  let rest = arrays.map(bytesOf);
  for (let done = 0; rest.length > 0; ) {
    const count = await run(rest, at + done);
    if (count === 0) throw new Error("it ends too early");
    done += count;
    rest = restOf(rest, count);
  }
}

/** Opens a file of `bytes` zeros in a folder; it is written in full, so that a small disk fails before the first step. */
export async function openStateFile(folder: string, bytes: number): Promise<StateFile> {
  const failed = (cause: unknown): AppError => {
    const reason = (cause as NodeJS.ErrnoException).code ?? (cause as Error).message;
    const message = `${folder}: ${bytes} bytes of optimizer state do not lie there (${reason}); make room, or give more --optimizer-memory`;
    return new AppError(message, { code: "OptimizerState", operation: "keeping optimizer state on disk", cause });
  };
  let handle: FileHandle | undefined;
  try {
    await mkdir(folder, { recursive: true });
    const path = join(folder, `optimizer-state-${randomUUID()}.tmp`);
    handle = await open(path, "wx+");
    await rm(path);
    const own = handle;
    const zeros = new Float32Array(zerosBytes / Float32Array.BYTES_PER_ELEMENT);
    const write: Vectors = async (arrays, at) => (await own.writev(arrays, at)).bytesWritten;
    const read: Vectors = async (arrays, at) => (await own.readv(arrays, at)).bytesRead;
    const asked = (run: Vectors, arrays: readonly Float32Array[], at: number): Promise<void> =>
      whole(run, arrays, at).catch((cause: unknown) => {
        throw failed(cause);
      });
    for (let at = 0; at < bytes; at += zerosBytes)
      await whole(write, [zeros.subarray(0, Math.min(zerosBytes, bytes - at) / Float32Array.BYTES_PER_ELEMENT)], at);
    return {
      read: (arrays, at) => asked(read, arrays, at),
      write: (arrays, at) => asked(write, arrays, at),
      close: () => void own.close().catch(() => {}),
    };
  } catch (cause) {
    await handle?.close();
    throw failed(cause);
  }
}
