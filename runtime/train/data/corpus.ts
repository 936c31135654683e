// Reads token data: tokens.bin (u16 or u32, little-endian), documents.idx (u64 first token of each document), and index.json, which is
// written last. import-text.ts writes it.
import { join } from "node:path";
import { z } from "zod";
import { AppError } from "../../../crds/common.ts";
import { openFile, type RandomFile } from "../../weights/file.ts";
import { readJson } from "../../weights/store-reader.ts";

export const corpusVersion = 1;
export const corpusFiles = { tokens: "tokens.bin", documents: "documents.idx", index: "index.json" } as const;
const documentBytes = 8;

const sha256 = z.string().regex(/^[0-9a-f]{64}$/);
const count = z.number().int().min(0).max(Number.MAX_SAFE_INTEGER);

export const corpusSchema = z.object({
  version: z.literal(corpusVersion),
  tokens: count,
  documents: count,
  tokenBytes: z.union([z.literal(2), z.literal(4)]),
  vocab: z.number().int().min(1).max(4_294_967_295),
  /** SHA-256 of the tokenizer.json that made the ids; the model's must be equal. */
  tokenizerDigest: sha256,
  hashes: z.object({ tokens: sha256, documents: sha256 }),
});
type CorpusIndex = z.infer<typeof corpusSchema>;

export interface Wanted {
  readonly vocab: number;
  readonly tokenizerDigest: string;
  readonly sequenceLength: number;
}

export interface Sample {
  readonly inputs: Int32Array;
  readonly targets: Int32Array;
}

export interface Corpus {
  readonly index: CorpusIndex;
  readonly samples: number;
  /** Throws AppError `BadData` for an id that the model does not have. */
  read(sample: number): Promise<Sample>;
  documentsOf(sample: number): Promise<readonly [number, number]>;
  close(): Promise<void>;
}

function bad(path: string, what: string): AppError {
  return new AppError(`${path}: ${what}`, { code: "BadData", operation: "opening training data" });
}

async function readIndex(dir: string): Promise<CorpusIndex> {
  const path = join(dir, corpusFiles.index);
  const parsed = corpusSchema.safeParse(await readJson(path, "BadData"));
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw bad(path, `field ${issue?.path.join(".") || "(root)"}: ${issue?.message}; make it again with "enodia data import"`);
}

function check(dir: string, index: CorpusIndex, wanted: Wanted): void {
  const path = join(dir, corpusFiles.index);
  if (index.tokenizerDigest !== wanted.tokenizerDigest)
    throw bad(path, 'tokenizerDigest is not that of the model\'s tokenizer.json; import the text again with "--model" naming this model');
  if (index.vocab > wanted.vocab) throw bad(path, `vocab is ${index.vocab}, the model has ${wanted.vocab}; import the text for this model`);
  if (index.tokens <= wanted.sequenceLength)
    throw bad(path, `${index.tokens} tokens make no sequence of ${wanted.sequenceLength} and the token after it; import more text`);
}

class FileCorpus implements Corpus {
  readonly index: CorpusIndex;
  readonly samples: number;
  readonly #wanted: Wanted;
  readonly #tokens: RandomFile;
  readonly #documents: RandomFile;

  constructor(index: CorpusIndex, wanted: Wanted, files: { readonly tokens: RandomFile; readonly documents: RandomFile }) {
    this.index = index;
    this.samples = Math.floor((index.tokens - 1) / wanted.sequenceLength);
    this.#wanted = wanted;
    this.#tokens = files.tokens;
    this.#documents = files.documents;
  }

  async read(sample: number): Promise<Sample> {
    const { sequenceLength, vocab } = this.#wanted;
    const { tokenBytes } = this.index;
    const first = sample * sequenceLength;
    const bytes = await this.#tokens.read(first * tokenBytes, (sequenceLength + 1) * tokenBytes);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const ids = Int32Array.from({ length: sequenceLength + 1 }, (_, i) => {
      const id = tokenBytes === 2 ? view.getUint16(2 * i, true) : view.getUint32(4 * i, true);
      if (id < vocab) return id;
      throw bad(this.#tokens.path, `token ${first + i} is ${id}, the model's vocabulary has ${vocab}; import the text again`);
    });
    return { inputs: ids.subarray(0, sequenceLength), targets: ids.subarray(1) };
  }

  async documentsOf(sample: number): Promise<readonly [number, number]> {
    const first = sample * this.#wanted.sequenceLength;
    return [await this.#documentOf(first), await this.#documentOf(first + this.#wanted.sequenceLength)];
  }

  async #documentOf(token: number): Promise<number> {
    let [low, high] = [0, this.index.documents - 1];
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      const bytes = await this.#documents.read(middle * documentBytes, documentBytes);
      const begin = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
      if (begin <= token) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  async close(): Promise<void> {
    await this.#tokens.close();
    await this.#documents.close();
  }
}

/** Throws AppError `BadData` unless `enodia data import` wrote the folder for this model. */
export async function openCorpus(dir: string, wanted: Wanted): Promise<Corpus> {
  const index = await readIndex(dir);
  check(dir, index, wanted);
  const opened: RandomFile[] = [];
  try {
    for (const name of [corpusFiles.tokens, corpusFiles.documents]) opened.push(await openFile(join(dir, name), "BadData"));
    const [tokens, documents] = opened as [RandomFile, RandomFile];
    for (const [file, bytes] of [
      [tokens, index.tokens * index.tokenBytes],
      [documents, index.documents * documentBytes],
    ] as const)
      if (file.size !== bytes) throw bad(file.path, `has ${file.size} bytes, its index.json says ${bytes}; import the text again`);
    return new FileCorpus(index, wanted, { tokens, documents });
  } catch (caught) {
    for (const file of opened) await file.close();
    throw caught;
  }
}
