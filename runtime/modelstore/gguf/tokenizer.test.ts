// Tokenizers made from GGUF metadata against the originals: SentencePiece itself, and the pre-tokenizers of published tokenizer.json
// files in the library that they were written for (test/golden/gguf-tokenizers.json).
import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { AppError } from "../../../crds/common.ts";
import { tokenizerMetadata } from "../../../test/kit/models/moe-gguf.ts";
import { loadTokenizer } from "../../text/tokenizer.ts";
import type { GgufValue } from "../../weights/gguf-header.ts";
import { tokenizerFromGguf } from "./tokenizer.ts";

const dir = await mkdtemp(join(tmpdir(), "enodia-gguf-tokenizer-"));
after(() => rm(dir, { recursive: true }));
const golden = JSON.parse(await readFile(join(import.meta.dirname, "../../../test/golden/gguf-tokenizers.json"), "utf8"));
assert.equal(golden.magic, "enodia-golden");
assert.equal(golden.version, 1, `remake: ${golden.remake}`);

async function load(metadata: Readonly<Record<string, GgufValue>>) {
  const files = tokenizerFromGguf(new Map(Object.entries(metadata)), "x.gguf");
  const folder = await mkdtemp(join(dir, "t-"));
  await writeFile(join(folder, "config.json"), JSON.stringify({ vocab_size: files.vocabulary }));
  await writeFile(join(folder, "tokenizer.json"), JSON.stringify(files.tokenizer));
  await writeFile(join(folder, "tokenizer_config.json"), JSON.stringify(files.tokenizerConfig));
  return loadTokenizer(folder);
}

const spm = {
  "tokenizer.ggml.model": "llama",
  "tokenizer.ggml.tokens": golden.spm.tokens,
  "tokenizer.ggml.scores": golden.spm.scores,
  "tokenizer.ggml.token_type": golden.spm.types,
  "tokenizer.ggml.bos_token_id": 1,
  "tokenizer.ggml.eos_token_id": 2,
  "tokenizer.ggml.unknown_token_id": 0,
};

test("a SentencePiece vocabulary encodes as SentencePiece does, and its tokens are the text again", async () => {
  const tokenizer = await load({ ...spm, "tokenizer.ggml.add_bos_token": false });
  for (const { text, ids } of golden.spm.texts) {
    assert.deepEqual(tokenizer.encode(text), ids, JSON.stringify(text));
    assert.equal(tokenizer.decode(ids), text);
  }
  const begins = await load(spm);
  const { text, ids } = golden.spm.texts.at(-1);
  assert.deepEqual(begins.encode(text), [1, ...ids], "a text begins with the first token unless the file says otherwise");
});

const metadata = await tokenizerMetadata();
for (const [pre, texts] of Object.entries<{ text: string; ids: number[]; pieces: string[] }[]>(golden.pre))
  test(`text is cut as ${pre} cuts it`, async () => {
    const tokenizer = await load({ ...metadata, "tokenizer.ggml.pre": pre });
    for (const { text, ids } of texts) assert.deepEqual(tokenizer.encode(text), ids, JSON.stringify(text));
    // With no merges and a token for every piece that the original cuts, whole pieces come out whatever the vocabulary merges.
    const pieces = [...new Set(texts.flatMap((entry) => entry.pieces))];
    const own = new Set(metadata["tokenizer.ggml.tokens"] as string[]);
    const tokens = [...own, ...pieces.filter((piece) => !own.has(piece))];
    const files = tokenizerFromGguf(
      new Map<string, GgufValue>(
        Object.entries({ ...metadata, "tokenizer.ggml.pre": pre, "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": [] }),
      ),
      "x.gguf",
    );
    const json = files.tokenizer as { model: Record<string, unknown> };
    const folder = await mkdtemp(join(dir, "p-"));
    await writeFile(join(folder, "config.json"), JSON.stringify({ vocab_size: tokens.length }));
    await writeFile(join(folder, "tokenizer.json"), JSON.stringify({ ...json, model: { ...json.model, ignore_merges: true } }));
    const whole = await loadTokenizer(folder);
    for (const { text, pieces } of texts)
      assert.deepEqual(
        whole.encode(text).map((id) => tokens[id]),
        pieces,
        JSON.stringify(text),
      );
  });

test("what no tokenizer can be made of is refused by name", () => {
  const refused = (change: Readonly<Record<string, GgufValue>>, code: string, want: RegExp) =>
    assert.throws(
      () => tokenizerFromGguf(new Map<string, GgufValue>(Object.entries({ ...spm, ...change })), "x.gguf"),
      (error: unknown) => error instanceof AppError && error.code === code && want.test(error.message),
      String(want),
    );
  refused({ "tokenizer.ggml.model": "bert" }, "UnsupportedTokenizer", /kind "bert", only gpt2 and llama/);
  refused({ "tokenizer.ggml.scores": [1, 2] }, "BadTokenizer", /420 tokens have 2 scores/);
  refused({ "tokenizer.ggml.bos_token_id": 9000 }, "BadTokenizer", /bos_token_id" = 9000 is outside the vocabulary of 420/);
  refused(
    { "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "chameleon" },
    "UnsupportedTokenizer",
    /"chameleon" is none of gpt-2, smollm/,
  );
});
