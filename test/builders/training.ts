// Models and token data for tests of training: the tiny golden model, and corpora of given ids.
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { tokenizerDigest } from "../../runtime/train/source.ts";

const dir = join(import.meta.dirname, "../golden/tiny-f32");

export const tinyModel = { dir, vocab: (JSON.parse(readFileSync(join(dir, "config.json"), "utf8")) as { vocab_size: number }).vocab_size };

/** Token data as `enodia data import` writes it; `documents` are the tokens at which each begins. */
export async function writeCorpus(folder: string, ids: readonly number[], documents: readonly number[] = [0]): Promise<void> {
  mkdirSync(folder, { recursive: true });
  const tokens = Buffer.from(Uint16Array.from(ids).buffer);
  const offsets = Buffer.from(BigUint64Array.from(documents, BigInt).buffer);
  const sha256 = (bytes: Buffer): string => createHash("sha256").update(bytes).digest("hex");
  const index = {
    version: 1,
    tokens: ids.length,
    documents: documents.length,
    tokenBytes: 2,
    vocab: tinyModel.vocab,
    tokenizerDigest: await tokenizerDigest(dir),
    hashes: { tokens: sha256(tokens), documents: sha256(offsets) },
  };
  writeFileSync(join(folder, "tokens.bin"), tokens);
  writeFileSync(join(folder, "documents.idx"), offsets);
  writeFileSync(join(folder, "index.json"), JSON.stringify(index));
}
