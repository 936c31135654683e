// The writer of tar archives (POSIX ustar with pax records for long names) so that equal input gives equal bytes. Pure but for
// reading the files it packs.

import { createReadStream } from "node:fs";

export interface TarEntry {
  /** Relative, no leading slash; a folder's ends with "/". */
  readonly path: string;
  readonly mode: number;
  readonly size: number;
  readonly linkTarget?: string;
  readonly source?: string;
  readonly content?: Uint8Array;
}

const blockBytes = 512;
const nameBytesMax = 100;
const readBytes = 1024 * 1024;

function octal(value: number, digits: number): string {
  return `${value.toString(8).padStart(digits - 1, "0")}\0`;
}

interface Header extends Pick<TarEntry, "path" | "mode" | "size" | "linkTarget"> {
  readonly type: string;
}

/** One header block; owner and time are always 0. */
function tarHeader({ path, mode, size, type, linkTarget = "" }: Header): Buffer {
  const block = Buffer.alloc(blockBytes);
  block.write(path, 0, nameBytesMax, "utf8");
  block.write(octal(mode, 8), 100);
  block.write(octal(0, 8), 108);
  block.write(octal(0, 8), 116);
  block.write(octal(size, 12), 124);
  block.write(octal(0, 12), 136);
  block.write("        ", 148);
  block.write(type, 156);
  block.write(linkTarget, 157, nameBytesMax, "utf8");
  block.write("ustar\0", 257);
  block.write("00", 263);
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
  return block;
}

/** "<length> key=value\n", where the length counts itself. */
export function paxRecord(key: string, value: string): string {
  const rest = Buffer.byteLength(` ${key}=${value}\n`);
  let length = rest + String(rest).length;
  if (rest + String(length).length !== length) length = rest + String(length).length;
  return `${length} ${key}=${value}\n`;
}

function padding(size: number): Buffer {
  return Buffer.alloc((blockBytes - (size % blockBytes)) % blockBytes);
}

function* entryHeaders(entry: TarEntry): Generator<Buffer> {
  const link = entry.linkTarget ?? "";
  const records = [
    Buffer.byteLength(entry.path) > nameBytesMax ? paxRecord("path", entry.path) : "",
    Buffer.byteLength(link) > nameBytesMax ? paxRecord("linkpath", link) : "",
  ].join("");
  if (records !== "") {
    const body = Buffer.from(records);
    yield tarHeader({ path: "pax", mode: 0o644, size: body.length, type: "x" });
    yield body;
    yield padding(body.length);
  }
  const type = entry.linkTarget !== undefined ? "2" : entry.path.endsWith("/") ? "5" : "0";
  yield tarHeader({
    path: entry.path.slice(0, nameBytesMax),
    mode: entry.mode,
    size: type === "0" ? entry.size : 0,
    type,
    linkTarget: link.slice(0, nameBytesMax),
  });
}

/** Bytes that entries with short names and a body take in an archive, without its end. */
export function tarSize(entries: readonly TarEntry[]): number {
  return entries.reduce((total, entry) => total + blockBytes + Math.ceil(entry.size / blockBytes) * blockBytes, 0);
}

/** The archive's bytes in order; a source file whose size changed meanwhile is an error, not a broken archive. */
export async function* tarStream(entries: Iterable<TarEntry>): AsyncGenerator<Uint8Array> {
  for (const entry of entries) {
    yield* entryHeaders(entry);
    if (entry.content !== undefined) yield entry.content;
    if (entry.source !== undefined) {
      let bytes = 0;
      for await (const chunk of createReadStream(entry.source, { highWaterMark: readBytes })) {
        bytes += (chunk as Buffer).length;
        yield chunk as Buffer;
      }
      if (bytes !== entry.size) throw new Error(`${entry.source} changed while it was packed: ${bytes} bytes, expected ${entry.size}`);
    }
    if (entry.content !== undefined || entry.source !== undefined) yield padding(entry.size);
  }
  yield Buffer.alloc(2 * blockBytes);
}
