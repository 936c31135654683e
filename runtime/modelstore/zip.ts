// Strict zip reader that safely extracts one member to a given file (DECISIONS.md 6).
import { createWriteStream } from "node:fs";
import { rename, rm } from "node:fs/promises";
import { Transform } from "node:stream";
import { pipeline } from "node:stream/promises";
import { crc32, createInflateRaw } from "node:zlib";
import { AppError } from "../../crds/common.ts";
import { openFile, type RandomFile } from "../weights/file.ts";

const tailBytes = 65_557; // end record plus the longest comment
const endSignature = 0x06054b50;
const centralSignature = 0x02014b50;
const localSignature = 0x04034b50;
const entriesMax = 100_000;
const readBytes = 4 * 1024 * 1024;

export interface ZipEntry {
  readonly name: string;
  readonly method: number;
  readonly crc: number;
  readonly stored: number;
  readonly size: number;
  readonly headerAt: number;
}

function bad(path: string, what: string): AppError {
  return new AppError(`${path}: ${what}; delete it and download it again`, { code: "BadWheel", operation: "reading a wheel" });
}

const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

async function findDirectory(file: RandomFile): Promise<{ readonly count: number; readonly size: number; readonly offset: number }> {
  if (file.size < 22) throw bad(file.path, "is too short for a zip archive");
  const start = Math.max(0, file.size - tailBytes);
  const tail = viewOf(await file.read(start, file.size - start));
  for (let at = tail.byteLength - 22; at >= 0; at--) {
    if (tail.getUint32(at, true) !== endSignature || at + 22 + tail.getUint16(at + 20, true) !== tail.byteLength) continue;
    const record = { count: tail.getUint16(at + 10, true), size: tail.getUint32(at + 12, true), offset: tail.getUint32(at + 16, true) };
    if (record.offset === 0xffffffff || record.count === 0xffff) throw bad(file.path, "is a Zip64 archive, which is not supported");
    if (tail.getUint16(at + 4, true) !== 0 || tail.getUint16(at + 8, true) !== record.count) throw bad(file.path, "spans several disks");
    if (record.offset + record.size > start + at) throw bad(file.path, "has a directory past its end");
    return record;
  }
  throw bad(file.path, "is no zip archive (no end record)");
}

function parseEntry(path: string, view: DataView, at: number): { readonly entry: ZipEntry; readonly next: number } {
  if (at + 46 > view.byteLength || view.getUint32(at, true) !== centralSignature) throw bad(path, "has a broken directory");
  const nameLength = view.getUint16(at + 28, true);
  const next = at + 46 + nameLength + view.getUint16(at + 30, true) + view.getUint16(at + 32, true);
  if (next > view.byteLength) throw bad(path, "has a broken directory");
  if (view.getUint16(at + 8, true) & 1) throw bad(path, "is encrypted");
  const name = new TextDecoder().decode(new Uint8Array(view.buffer, view.byteOffset + at + 46, nameLength));
  const entry = {
    name,
    method: view.getUint16(at + 10, true),
    crc: view.getUint32(at + 16, true),
    stored: view.getUint32(at + 20, true),
    size: view.getUint32(at + 24, true),
    headerAt: view.getUint32(at + 42, true),
  };
  return { entry, next };
}

export async function listZip(path: string): Promise<readonly ZipEntry[]> {
  const file = await openFile(path, "BadWheel");
  try {
    const directory = await findDirectory(file);
    if (directory.count > entriesMax) throw bad(path, `lists ${directory.count} members, more than ${entriesMax}`);
    const view = viewOf(await file.read(directory.offset, directory.size));
    const entries: ZipEntry[] = [];
    for (let i = 0, at = 0; i < directory.count; i++) {
      const { entry, next } = parseEntry(path, view, at);
      entries.push(entry);
      at = next;
    }
    return entries;
  } finally {
    await file.close();
  }
}

async function* storedBytes(file: RandomFile, entry: ZipEntry): AsyncGenerator<Uint8Array> {
  const local = viewOf(await file.read(entry.headerAt, 30));
  if (local.getUint32(0, true) !== localSignature) throw bad(file.path, `member "${entry.name}" has no local header`);
  let at = entry.headerAt + 30 + local.getUint16(26, true) + local.getUint16(28, true);
  const end = at + entry.stored;
  while (at < end) {
    const take = Math.min(readBytes, end - at);
    yield await file.read(at, take);
    at += take;
  }
}

/** Stops a bomb at its declared size. */
function checker(path: string, entry: ZipEntry): Transform {
  let size = 0;
  let crc = 0;
  return new Transform({
    transform(chunk: Uint8Array, _encoding, done) {
      size += chunk.length;
      crc = crc32(chunk, crc);
      if (size > entry.size) done(bad(path, `member "${entry.name}" is larger than it says`));
      else done(null, chunk);
    },
    flush(done) {
      if (size !== entry.size || crc !== entry.crc) done(bad(path, `member "${entry.name}" fails its checksum`));
      else done();
    },
  });
}

/** Writes a temporary name first; a failure leaves nothing. */
export async function extractZip(path: string, entry: ZipEntry, to: string, bytesMax: number): Promise<void> {
  if (entry.size > bytesMax) throw bad(path, `member "${entry.name}" has ${entry.size} bytes, more than the ${bytesMax} allowed`);
  if (entry.method !== 0 && entry.method !== 8) throw bad(path, `member "${entry.name}" uses compression method ${entry.method}`);
  const file = await openFile(path, "BadWheel");
  const work = `${to}.tmp-${process.pid}`;
  try {
    const source = storedBytes(file, entry);
    const check = checker(path, entry);
    const sink = createWriteStream(work);
    await (entry.method === 8 ? pipeline(source, createInflateRaw(), check, sink) : pipeline(source, check, sink));
    await rename(work, to);
  } catch (caught) {
    await rm(work, { force: true });
    throw caught instanceof AppError
      ? caught
      : bad(path, `member "${entry.name}" cannot be unpacked (${caught instanceof Error ? caught.message : caught})`);
  } finally {
    await file.close();
  }
}
