// Writes tar archives; equal entries give equal bytes.
import { createReadStream } from "node:fs";
import { pipeline } from "node:stream/promises";
import { type Header, type Pack, pack } from "tar-stream";

export interface TarEntry {
  /** Relative; a folder's ends with "/". */
  readonly path: string;
  readonly mode: number;
  readonly size: number;
  readonly linkTarget?: string;
  /** A local file. */
  readonly source?: string;
  readonly content?: Uint8Array;
}

const blockBytes = 512;
const readBytes = 1024 * 1024;

/** Bytes of entries with short names in an archive, without its end. */
export function tarSize(entries: readonly TarEntry[]): number {
  return entries.reduce((total, entry) => total + blockBytes + Math.ceil(entry.size / blockBytes) * blockBytes, 0);
}

/** Throws when a source has another size than its entry. */
export async function* tarStream(entries: Iterable<TarEntry>): AsyncGenerator<Uint8Array> {
  const archive = pack();
  const written = writeAll(archive, entries).catch((error: Error) => archive.destroy(error));
  yield* archive as AsyncIterable<Uint8Array>;
  await written;
}

async function writeAll(archive: Pack, entries: Iterable<TarEntry>): Promise<void> {
  for (const entry of entries) {
    if (entry.source === undefined) archive.entry(headerOf(entry), Buffer.from(entry.content ?? []));
    else await pipeline(createReadStream(entry.source, { highWaterMark: readBytes }), archive.entry(headerOf(entry)));
  }
  archive.finalize();
}

/** Owner and time are always 0. */
function headerOf({ path, mode, size, linkTarget }: TarEntry): Partial<Header> & { readonly name: string } {
  const type = linkTarget !== undefined ? "symlink" : path.endsWith("/") ? "directory" : "file";
  return {
    name: path,
    mode,
    size: type === "file" ? size : 0,
    type,
    mtime: new Date(0),
    uid: 0,
    gid: 0,
    ...(linkTarget === undefined ? {} : { linkname: linkTarget }),
  };
}
