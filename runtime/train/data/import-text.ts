// `enodia data import`: texts to token data. A .txt file is a document; a .jsonl file has one per line in the field "text". Every
// document ends with the model's end token.
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { type FileHandle, mkdir, open, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { extname, join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { z } from "zod";
import { AppError } from "../../../crds/common.ts";
import { loadTokenizer } from "../../text/tokenizer.ts";
import { writeAll } from "../../weights/safetensors-writer.ts";
import { tokenizerDigest } from "../model/model-source.ts";
import { corpusFiles, type corpusSchema, corpusVersion } from "./corpus.ts";

const documentCharsMax = 256 * 1024 * 1024;

export interface ImportText {
  readonly from: readonly string[];
  readonly model: string;
  readonly out: string;
  readonly overwrite: boolean;
  readonly onDocument?: (done: { readonly documents: number; readonly tokens: number }) => void;
}

type Index = z.infer<typeof corpusSchema>;
type Tokenizer = Awaited<ReturnType<typeof loadTokenizer>>;

function bad(where: string, what: string, cause?: unknown): AppError {
  return new AppError(`${where}: ${what}`, { code: "BadData", operation: "importing text", ...(cause !== undefined && { cause }) });
}

const lineSchema = z.looseObject({ text: z.string() });

type Reader = (path: string) => AsyncIterable<string>;

/** The readers by file extension; a new kind is one entry. */
const readers: Readonly<Record<string, Reader>> = {
  async *".txt"(path) {
    const { size } = await stat(path);
    if (size > documentCharsMax) throw bad(path, `has ${size} bytes, more than the ${documentCharsMax} of a document; cut it into files`);
    yield await readFile(path, "utf8");
  },
  async *".jsonl"(path) {
    let line = 0;
    for await (const text of createInterface({ input: createReadStream(path), crlfDelay: Number.POSITIVE_INFINITY })) {
      line += 1;
      if (text.trim() === "") continue;
      let json: unknown;
      try {
        json = JSON.parse(text);
      } catch (cause) {
        throw bad(`${path}:${line}`, "is not JSON; put one object on each line", cause);
      }
      const parsed = lineSchema.safeParse(json);
      if (!parsed.success) throw bad(`${path}:${line}`, 'field text: a string was expected; each line is like {"text": "..."}');
      yield parsed.data.text;
    }
  },
};

async function filesOf(from: readonly string[]): Promise<readonly string[]> {
  const files: string[] = [];
  for (const path of from) {
    const info = await stat(path).catch((cause: unknown) => {
      throw bad(path, "not found; name a .txt or .jsonl file, or a folder of them", cause);
    });
    if (info.isFile() && !(extname(path) in readers)) throw bad(path, `is no ${Object.keys(readers).join(" or ")} file`);
    if (info.isFile()) files.push(path);
    else for (const name of (await readdir(path)).toSorted()) if (extname(name) in readers) files.push(join(path, name));
  }
  if (files.length > 0) return files;
  throw bad(from.join(", "), `has no ${Object.keys(readers).join(" or ")} file`);
}

class Growing {
  readonly #handle: FileHandle;
  readonly #hash = createHash("sha256");
  #bytes = 0;
  constructor(handle: FileHandle) {
    this.#handle = handle;
  }

  async add(bytes: Uint8Array): Promise<void> {
    await writeAll(this.#handle, bytes, this.#bytes);
    this.#hash.update(bytes);
    this.#bytes += bytes.length;
  }

  async finish(): Promise<string> {
    await this.#handle.sync();
    return this.#hash.digest("hex");
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }
}

function tokenBytesOf(ids: readonly number[], tokenBytes: 2 | 4): Uint8Array {
  const view = new DataView(new ArrayBuffer(ids.length * tokenBytes));
  for (const [i, id] of ids.entries()) {
    if (tokenBytes === 2) view.setUint16(2 * i, id, true);
    else view.setUint32(4 * i, id, true);
  }
  return new Uint8Array(view.buffer);
}

function offsetBytes(token: number): Uint8Array {
  const view = new DataView(new ArrayBuffer(8));
  view.setBigUint64(0, BigInt(token), true);
  return new Uint8Array(view.buffer);
}

const unfinishedIndex = `${corpusFiles.index}.tmp`;
const ownNames: ReadonlySet<string> = new Set([...Object.values(corpusFiles), unfinishedIndex]);

/** The index is removed first and written last: a folder without it is no data. */
async function prepare({ out, overwrite }: ImportText): Promise<void> {
  const there = await readdir(out).catch(() => undefined);
  if (there === undefined) await mkdir(out, { recursive: true });
  else if (there.length > 0 && !(overwrite && there.every((name) => ownNames.has(name))))
    throw new AppError(`${out}: is not empty; pass --overwrite to replace token data that is there, or --out for another folder`, {
      code: "AlreadyExists",
    });
  for (const name of [corpusFiles.index, unfinishedIndex]) await rm(join(out, name), { force: true });
}

async function writeTokens(options: ImportText, tokenizer: Tokenizer, files: readonly string[]): Promise<Index> {
  const opened: Growing[] = [];
  try {
    for (const name of [corpusFiles.tokens, corpusFiles.documents]) opened.push(new Growing(await open(join(options.out, name), "w")));
    return await writeInto(opened as [Growing, Growing], { options, tokenizer, files });
  } finally {
    for (const file of opened) await file.close();
  }
}

interface Texts {
  readonly options: ImportText;
  readonly tokenizer: Tokenizer;
  readonly files: readonly string[];
}

async function writeInto([tokens, documents]: readonly [Growing, Growing], { options, tokenizer, files }: Texts): Promise<Index> {
  const [end] = tokenizer.eosIds;
  if (end === undefined) throw bad(options.model, "names no token at which a text ends; set eos_token in tokenizer_config.json");
  const tokenBytes = tokenizer.vocab <= 65_536 ? 2 : 4;
  let [tokenCount, documentCount] = [0, 0];
  for (const file of files) {
    const read = readers[extname(file)] as Reader;
    for await (const text of read(file)) {
      if (text === "") continue;
      const ids = [...tokenizer.encode(text), end];
      await documents.add(offsetBytes(tokenCount));
      await tokens.add(tokenBytesOf(ids, tokenBytes));
      tokenCount += ids.length;
      documentCount += 1;
      options.onDocument?.({ documents: documentCount, tokens: tokenCount });
    }
  }
  const hashes = { tokens: await tokens.finish(), documents: await documents.finish() };
  if (documentCount === 0) throw bad(files.join(", "), "holds no text");
  const sizes = { tokens: tokenCount, documents: documentCount, tokenBytes, vocab: tokenizer.vocab } as const;
  return { version: corpusVersion, ...sizes, tokenizerDigest: await tokenizerDigest(options.model), hashes };
}

export async function importText(given: ImportText): Promise<Index> {
  const options = { ...given, out: resolve(given.out) };
  const files = await filesOf(options.from);
  const tokenizer = await loadTokenizer(options.model);
  await prepare(options);
  const index = await writeTokens(options, tokenizer, files);
  const unfinished = join(options.out, unfinishedIndex);
  await writeFile(unfinished, `${JSON.stringify(index, undefined, 2)}\n`, { flush: true });
  await rename(unfinished, join(options.out, corpusFiles.index));
  return index;
}
