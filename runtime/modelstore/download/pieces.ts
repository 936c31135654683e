// A file downloaded in pieces with a journal; it gets its name once it is verified.
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { type FileHandle, open, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { AppError } from "../../../crds/common.ts";
import { writeAll } from "../../weights/safetensors-writer.ts";
import type { RemoteFile } from "./download-source.ts";

/** A kill loses at most one per connection. */
const pieceBytes = 32 * 1024 * 1024;

export interface Piece {
  readonly index: number;
  readonly from: number;
  readonly to: number;
}

export class FileInPieces {
  readonly file: RemoteFile;
  readonly #dir: string;
  readonly #done: Set<number>;
  readonly #size: number;
  #part: FileHandle | undefined;
  #journal: FileHandle | undefined;

  private constructor(file: RemoteFile, dir: string, { done, size }: { done: Set<number>; size: number }) {
    this.file = file;
    this.#dir = dir;
    this.#done = done;
    this.#size = size;
  }

  /** Undefined where the file is already whole. Tests set `size`. */
  static async open(file: RemoteFile, dir: string, size = pieceBytes): Promise<FileInPieces | undefined> {
    const path = join(dir, file.name);
    if ((await stat(path).catch(() => undefined))?.size === file.bytes) return undefined;
    const header = headerOf(file, size);
    const text = await readFile(journalOf(path), "utf8").catch(() => "");
    const [first, ...lines] = text.split("\n");
    // Ignores a truncated last line.
    const known = first === header ? lines.slice(0, -1).filter((line) => /^\d+$/.test(line)) : [];
    const pieces = Math.ceil(file.bytes / size);
    const there = await stat(partOf(path)).catch(() => undefined);
    const done = new Set(there ? known.map(Number).filter((index) => index < pieces) : []);
    const opened = new FileInPieces(file, dir, { done, size });
    await opened.#begin(header);
    return opened;
  }

  /** Lazy, since the source determines the count. */
  *missing(): Generator<Piece> {
    for (let index = 0; index < this.#count; index++) if (!this.#done.has(index)) yield this.#piece(index);
  }

  get missingCount(): number {
    return this.#count - this.#done.size;
  }

  get missingBytes(): number {
    return [...this.#done].map((index) => this.#piece(index)).reduce((left, { from, to }) => left - (to - from), this.file.bytes);
  }

  get #count(): number {
    return Math.ceil(this.file.bytes / this.#size);
  }

  #piece(index: number): Piece {
    return { index, from: index * this.#size, to: Math.min(this.file.bytes, (index + 1) * this.#size) };
  }

  async write(chunk: Uint8Array, at: number): Promise<void> {
    if (this.#part) await writeAll(this.#part, chunk, at);
  }

  /** Syncs the piece before the journal records it. */
  async done({ index }: Piece): Promise<void> {
    await this.#part?.datasync();
    await this.#journal?.appendFile(`${index}\n`);
    this.#done.add(index);
  }

  /** Deletes everything and throws `DigestMismatch` on a wrong hash. */
  async finish(): Promise<void> {
    const path = join(this.#dir, this.file.name);
    await this.#part?.truncate(this.file.bytes);
    await this.#part?.sync();
    await this.close();
    const { sha256 } = this.file;
    const found = sha256 === undefined ? undefined : await sha256Of(partOf(path));
    if (found !== sha256) {
      await this.discard();
      const what = `${this.file.name}: has SHA-256 ${found}, the source says ${sha256}`;
      throw new AppError(`${what}; it was removed`, { code: "DigestMismatch", retry: "backoff" });
    }
    await rename(partOf(path), path);
    await rm(journalOf(path), { force: true });
  }

  async discard(): Promise<void> {
    await this.close();
    const path = join(this.#dir, this.file.name);
    for (const each of [journalOf(path), partOf(path)]) await rm(each, { force: true });
  }

  async close(): Promise<void> {
    const open = [this.#part, this.#journal];
    this.#part = undefined;
    this.#journal = undefined;
    for (const handle of open) await handle?.close();
  }

  /** A truncated line would merge with the next entry. */
  async #begin(header: string): Promise<void> {
    const path = join(this.#dir, this.file.name);
    const fresh = `${journalOf(path)}.new`;
    await writeFile(fresh, [header, ...this.#done, ""].join("\n"));
    this.#part = await open(partOf(path), this.#done.size === 0 ? "w" : "r+");
    await rename(fresh, journalOf(path));
    this.#journal = await open(journalOf(path), "a");
  }
}

const partOf = (path: string): string => `${path}.part`;
const journalOf = (path: string): string => `${path}.pieces`;

/** Pieces under another header are discarded. */
const headerOf = ({ bytes, sha256 = "", etag = "" }: RemoteFile, size: number): string => JSON.stringify([bytes, size, sha256, etag]);

async function sha256Of(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path, { highWaterMark: 2 ** 20 })) hash.update(chunk);
  return hash.digest("hex");
}
