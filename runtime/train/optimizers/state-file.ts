// The file of an optimizer's state that memory is not for. It has no name once it is open, so that it ends with the process however that
// ends: checkpoints are what a run goes on from. Shell.
import { randomUUID } from "node:crypto";
import type { FileHandle } from "node:fs/promises";
import { mkdir, open, rm } from "node:fs/promises";
import { join } from "node:path";
import { AppError } from "../../../crds/common.ts";
import { bytesOf } from "../../weights/floats.ts";

/** Arrays of floats at a byte of a file, one behind another. */
export interface StateFile {
  read(arrays: readonly Float32Array[], at: number): Promise<void>;
  write(arrays: readonly Float32Array[], at: number): Promise<void>;
  close(): void;
}

export type OpenStateFile = (bytes: number) => Promise<StateFile>;

const zerosBytes = 2 ** 22;

/** What is left of arrays when `bytes` of them are done. */
function restOf(arrays: readonly Uint8Array[], bytes: number): Uint8Array[] {
  let skip = bytes;
  return arrays.flatMap((array) => {
    const from = Math.min(skip, array.length);
    skip -= from;
    return from < array.length ? [array.subarray(from)] : [];
  });
}

type Vectors = (arrays: Uint8Array[], at: number) => Promise<number>;

/** A call may do less than it was asked for; one that does nothing is the end of the file. */
async function whole(run: Vectors, arrays: readonly Float32Array[], at: number): Promise<void> {
  let rest = arrays.map(bytesOf);
  for (let done = 0; rest.length > 0; ) {
    const count = await run(rest, at + done);
    if (count === 0) throw new Error("it ends too early");
    done += count;
    rest = restOf(rest, count);
  }
}

/** A file of `bytes` zeros in a folder, written in full, so that a disk that is too small is known before the first step. */
export async function openStateFile(folder: string, bytes: number): Promise<StateFile> {
  const failed = (cause: unknown): AppError => {
    const reason = (cause as NodeJS.ErrnoException).code ?? (cause as Error).message;
    const message = `${folder}: ${bytes} bytes of optimizer state do not lie there (${reason}); make room, or give more --optimizer-memory`;
    return new AppError(message, { code: "OptimizerState", operation: "keeping optimizer state on disk", cause });
  };
  let handle: FileHandle | undefined;
  try {
    await mkdir(folder, { recursive: true });
    const path = join(folder, `optimizer-state-${randomUUID()}.tmp`); // ranks may share the folder
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
      close: () => void own.close().catch(() => {}), // nobody reads a file without a name again
    };
  } catch (cause) {
    await handle?.close();
    throw failed(cause);
  }
}
