// Damaged model files: every reader takes them or refuses them with an AppError that says what is wrong, asks for no more bytes than the
// file has, and never ends the process. A sample of seeds; `ENODIA_FUZZ_RUNS=20000 node --test test/fuzz/readers.test.ts` tries more.
import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { AppError } from "../../crds/common.ts";
import { loadTokenizer } from "../../runtime/text/tokenizer.ts";
import { ggufCheckpoint } from "../../runtime/tools/gguf/checkpoint.ts";
import { ggufModel } from "../../runtime/tools/gguf/index.ts";
import { tokenizerFromGguf } from "../../runtime/tools/gguf/tokenizer.ts";
import { importModel } from "../../runtime/tools/import.ts";
import { openCheckpoint } from "../../runtime/weights/checkpoint.ts";
import { modelDigest } from "../../runtime/weights/digest.ts";
import { openGguf } from "../../runtime/weights/gguf.ts";
import { openSafetensors } from "../../runtime/weights/safetensors.ts";
import { openStore } from "../../runtime/weights/store-reader.ts";
import { ggufBytes } from "../support/gguf-writer.ts";
import { mixtralGguf } from "../support/moe-gguf.ts";
import { published, publishedFile, writePublished } from "../support/published-gguf.ts";
import { damaged, damagedJson, type Random, seeded } from "./mutate.ts";

const runs = Number(process.env.ENODIA_FUZZ_RUNS ?? 60);
/** Memory of the process above its start, at most, whatever files say. */
const growthBytesMax = 768 * 1024 * 1024;
/** A reader that takes longer hangs. */
const runMsMax = 5_000;

const dir = await mkdtemp(join(tmpdir(), "enodia-fuzz-"));
after(() => rm(dir, { recursive: true }));
const golden = join(import.meta.dirname, "../golden");
const before = process.resourceUsage().maxRSS * 1024;
after(() => {
  const growth = process.resourceUsage().maxRSS * 1024 - before;
  assert.ok(growth < growthBytesMax, `memory grew by ${growth} bytes`);
});

/** A file in memory that counts what is asked of it. */
function memoryFile(bytes: Buffer) {
  let asked = 0;
  const open = async (path: string) => ({
    path,
    size: bytes.length,
    async read(position: number, length: number) {
      assert.ok(length <= bytes.length, `${length} bytes asked of ${bytes.length}`);
      asked += length;
      if (position + length > bytes.length) throw new AppError(`${path}: too short`, { code: "Fuzz" });
      return new Uint8Array(bytes.subarray(position, position + length));
    },
    close: async () => undefined,
  });
  return { open, asked: () => asked };
}

/** Runs `once` for every seed; counts refusals, and fails on anything that is none. */
async function fuzz(once: (random: Random) => Promise<void>): Promise<{ readonly refused: number }> {
  let refused = 0;
  for (let seed = 1; seed <= runs; seed++) {
    const started = performance.now();
    try {
      await once(seeded(seed));
    } catch (error) {
      assert.ok(error instanceof AppError, `seed ${seed}: ${error instanceof Error ? error.stack : error}`);
      refused++;
    }
    assert.ok(performance.now() - started < runMsMax, `seed ${seed} took longer than ${runMsMax} ms`);
  }
  return { refused };
}

test("damaged GGUF models are read or refused", async () => {
  const { metadata, tensors } = await mixtralGguf("stacked");
  const layouts = await Promise.all(Object.values(published).map(async (make) => (await publishedFile(make())).gguf));
  const wholes = [ggufBytes(metadata, tensors), ...layouts];
  const { refused } = await fuzz(async (random) => {
    // Names, counts and numbers of the architecture come first; the vocabulary after them is most of the header.
    const whole = wholes[random(wholes.length)]!;
    const bytes = damaged(whole, random, random(2) === 0 ? 1_200 : 20_000);
    const { open } = memoryFile(bytes);
    const file = await openGguf("x.gguf", open);
    const tokenizer = tokenizerFromGguf(file.metadata, "x.gguf");
    const checkpoint = ggufCheckpoint(file, ggufModel(file, tokenizer.vocabulary));
    assert.ok(checkpoint.names.length <= 1_000_000);
    for (let i = 0; i < 3; i++) await checkpoint.readStored(checkpoint.names[random(checkpoint.names.length)] ?? "");
  });
  assert.ok(refused > runs / 4, `${refused} of ${runs} refused`);
});

test("damaged safetensors are read or refused", async () => {
  const whole = await readFile(join(golden, "tiny-f16/model.safetensors"));
  const { refused } = await fuzz(async (random) => {
    const { open } = memoryFile(damaged(whole, random, 4_000));
    const file = await openSafetensors("x.safetensors", open);
    await file.read(file.names[random(file.names.length)] ?? "");
  });
  assert.ok(refused > runs / 4, `${refused} of ${runs} refused`);
});

test("safetensors headers of other kinds and packed parts that do not fit are read or refused", async () => {
  const at = "m.experts.";
  const parts = {
    "a.weight": { dtype: "F8_E4M3", shape: [4, 32], data_offsets: [0, 128] },
    "a.weight_scale_inv": { dtype: "F32", shape: [1, 1], data_offsets: [128, 132] },
    [`${at}down_proj_blocks`]: { dtype: "U8", shape: [2, 4, 1, 16], data_offsets: [132, 260] },
    [`${at}down_proj_scales`]: { dtype: "U8", shape: [2, 4, 1], data_offsets: [260, 268] },
    [`${at}down_proj_bias`]: { dtype: "BF16", shape: [2, 4], data_offsets: [268, 284] },
    [`${at}gate_up_proj`]: { dtype: "F16", shape: [2, 4, 4], data_offsets: [284, 348] },
    "n.experts.gate_up_proj": { dtype: "BF16", shape: [2, 4, 4], data_offsets: [348, 412] },
    "n.experts.gate_up_proj_bias": { dtype: "BF16", shape: [2, 4], data_offsets: [412, 428] },
  };
  const folder = await mkdtemp(join(dir, "packed-"));
  const { refused } = await fuzz(async (random) => {
    const header = Buffer.from(JSON.stringify(random(8) === 0 ? parts : damagedJson(parts, random)) ?? "");
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(header.length));
    await writeFile(join(folder, "model.safetensors"), Buffer.concat([length, header, Buffer.alloc(428, random(256))]));
    const checkpoint = await openCheckpoint(folder);
    try {
      for (const name of checkpoint.names.slice(0, 50)) await checkpoint.read(name);
    } finally {
      await checkpoint.close();
    }
  });
  assert.ok(refused > runs / 4, `${refused} of ${runs} refused`);
});

test("damaged indexes of a store that keeps types as they came are read or refused", async () => {
  const model = published["gpt-oss, MXFP4"]!();
  const folder = await mkdtemp(join(dir, "published-"));
  await writePublished(model, folder);
  const out = join(folder, "store");
  const source = join(folder, "model.gguf");
  await importModel({ source, out, overwrite: false, cache: folder, secrets: { HF_ENDPOINT: "http://127.0.0.1:9" } }, () => undefined);
  const path = join(out, "expert-index.json");
  const [index, config] = [JSON.parse(await readFile(path, "utf8")), await readFile(join(out, "config.json"), "utf8")];
  const digest = (json: any): string => {
    try {
      return modelDigest(config, json);
    } catch {
      return index.modelDigest; // what has no such lists is refused before the digest is asked
    }
  };
  const { refused } = await fuzz(async (random) => {
    const json: any = random(8) === 0 ? structuredClone(index) : damagedJson(index, random);
    if (typeof json === "object" && json !== null && !Array.isArray(json)) json.modelDigest = digest(json);
    await writeFile(path, JSON.stringify(json) ?? "");
    const store = await openStore(out);
    try {
      for (const name of store.denseNames) await store.readDense(name);
      for (const layer of store.layerShapes.keys()) store.decodeUnit(await store.readUnit(layer, 1, "source"), "source", layer);
    } finally {
      await store.close();
    }
  });
  assert.ok(refused > runs / 4, `${refused} of ${runs} refused`);
});

/** tokenizer.json of the kinds that models have. */
async function tokenizerKinds(): Promise<readonly unknown[]> {
  const byteLevel = JSON.parse(await readFile(join(golden, "tiny-f32/tokenizer.json"), "utf8"));
  const { spm } = JSON.parse(await readFile(join(golden, "gguf-tokenizers.json"), "utf8"));
  const metadata = new Map(
    Object.entries({
      "tokenizer.ggml.model": "llama",
      "tokenizer.ggml.tokens": spm.tokens as string[],
      "tokenizer.ggml.scores": spm.scores as number[],
      "tokenizer.ggml.token_type": spm.types as number[],
      "tokenizer.ggml.bos_token_id": 1,
    }),
  );
  const sentencePiece = tokenizerFromGguf(metadata, "x.gguf").tokenizer;
  const metaspace = { type: "Metaspace", replacement: "\u2581", prepend_scheme: "always", split: true };
  const vocab = spm.tokens.map((token: string, id: number) => [token, spm.scores[id]]);
  const unigram = { added_tokens: [], pre_tokenizer: metaspace, decoder: metaspace, model: { type: "Unigram", unk_id: 0, vocab } };
  const words = { "[UNK]": 0, pro: 1, "##be": 2, a: 3 };
  const model = { type: "WordPiece", unk_token: "[UNK]", continuing_subword_prefix: "##", max_input_chars_per_word: 100, vocab: words };
  const wordPiece = { added_tokens: [], pre_tokenizer: { type: "BertPreTokenizer" }, decoder: { type: "WordPiece", prefix: "##" }, model };
  return [byteLevel, sentencePiece, unigram, wordPiece];
}

test("damaged tokenizers of every kind are loaded or refused, and encode or say why not", async () => {
  const kinds = await tokenizerKinds();
  const folder = await mkdtemp(join(dir, "tokenizer-"));
  await writeFile(join(folder, "config.json"), JSON.stringify({ vocab_size: 2000 }));
  const { refused } = await fuzz(async (random) => {
    const text = JSON.stringify(damagedJson(kinds[random(kinds.length)], random)) ?? "";
    const bytes = random(3) === 0 ? damaged(Buffer.from(text), random, 3_000) : text;
    await writeFile(join(folder, "tokenizer.json"), bytes);
    const tokenizer = await loadTokenizer(folder);
    tokenizer.decode(tokenizer.encode("a probe, 12 of them\u00e9"));
  });
  assert.ok(refused > 0 && refused < runs, `${refused} of ${runs} refused`);
});

test("damaged chat templates are loaded or refused, and render or say why not", async () => {
  const folder = await mkdtemp(join(dir, "template-"));
  await writeFile(join(folder, "config.json"), JSON.stringify({ vocab_size: 320 }));
  await writeFile(join(folder, "tokenizer.json"), await readFile(join(golden, "tiny-f32/tokenizer.json")));
  const plain = await readFile(join(golden, "tiny-f32/chat_template.jinja"), "utf8");
  const busy = `{%- set ns = namespace(n=0) %}{%- macro say(m) %}[{{ m.role|upper }}]{{ m['content']|trim }}{%- endmacro %}
{%- if messages[0].role == 'system' %}{{ raise_exception('no system') }}{%- endif %}
{%- for m in messages %}{%- set ns.n = ns.n + 1 %}{{ say(m) }}{% if loop.last and add_generation_prompt %}{{ bos_token + 'go' }}{% endif %}{%- endfor %}`;
  await fuzz(async (random) => {
    await writeFile(join(folder, "chat_template.jinja"), damaged(Buffer.from(random(2) === 0 ? plain : busy), random, 400));
    const tokenizer = await loadTokenizer(folder);
    tokenizer.encodeChat([{ role: "user", content: "a <|im_end|> b" }]);
  });
});
