// Reads of a file past the page cache, which a container's limit of memory counts, and which is slower than a disk: through it where the
// file system has no such reads.
import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { openFile, type RandomFile } from "./file.ts";

/** Node's types lack it. */
declare const WebAssembly: { readonly Memory: new (size: { readonly initial: number }) => { readonly buffer: ArrayBuffer } };

/** What places, lengths and memory keep to; no disk has larger blocks. */
const alignment = 4_096;
const pageBytes = 65_536;
/** Buffers that are kept for the next read. */
const keptMost = 4;

/** `code` as for `openFile`. */
export async function openDirectFile(path: string, code: string): Promise<RandomFile> {
  const file = await openFile(path, code);
  const handle = await openPast(path);
  if (handle === undefined) return file;
  const kept: Uint8Array[] = [];
  const buffer = (bytes: number): Uint8Array | undefined => {
    const one = kept.pop();
    return one !== undefined && one.byteLength >= bytes ? one : alignedBytes(bytes);
  };
  return {
    path,
    size: file.size,
    async read(position, length) {
      // The plain read tells what is wrong with places beyond the file, and has the file's end.
      if (position % alignment !== 0 || position + roundedUp(length) > file.size) return file.read(position, length);
      const into = buffer(roundedUp(length));
      if (into === undefined) return file.read(position, length);
      try {
        const isWhole = await readInto(handle, into.subarray(0, roundedUp(length)), position);
        return isWhole ? into.slice(0, length) : await file.read(position, length);
      } finally {
        if (kept.length < keptMost) kept.push(into);
      }
    },
    async close() {
      await handle.close();
      await file.close();
    },
  };
}

const roundedUp = (bytes: number): number => Math.ceil(bytes / alignment) * alignment;

/** Memory of WebAssembly is the only one that JavaScript gets at whole pages. Undefined where there is none left. */
function alignedBytes(bytes: number): Uint8Array | undefined {
  try {
    return new Uint8Array(new WebAssembly.Memory({ initial: Math.ceil(bytes / pageBytes) }).buffer, 0, bytes);
  } catch {
    return undefined;
  }
}

/** Undefined where the system or the file system has no such reads. */
const openPast = (path: string): Promise<FileHandle | undefined> =>
  constants.O_DIRECT === undefined
    ? Promise.resolve(undefined)
    : open(path, constants.O_RDONLY | constants.O_DIRECT).catch(() => undefined);

/** False where it failed or ended early. */
async function readInto(handle: FileHandle, bytes: Uint8Array, position: number): Promise<boolean> {
  for (let done = 0; done < bytes.byteLength; ) {
    const read = await handle.read(bytes, done, bytes.byteLength - done, position + done).catch(() => undefined);
    if (read === undefined || read.bytesRead === 0 || read.bytesRead % alignment !== 0) return false;
    done += read.bytesRead;
  }
  return true;
}
