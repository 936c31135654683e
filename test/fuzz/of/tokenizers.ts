// Tokenizers of every kind with values of other kinds, or damage to their bytes: they are loaded and encode, or say why not.
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { tokenizerFromGguf } from "../../../runtime/modelstore/gguf/tokenizer.ts";
import { loadTokenizer } from "../../../runtime/text/tokenizer.ts";
import { type Fuzzer, unguarded } from "../fuzzer.ts";
import { damaged, damagedJson } from "../mutate.ts";
import { chance, pick } from "../words.ts";
import { fileRefusals, golden } from "./files.ts";

interface Subject {
  readonly folder: string;
  readonly kinds: readonly unknown[];
  readonly load: typeof loadTokenizer;
}

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

export const tokenizers: Fuzzer<Subject, Buffer> = {
  name: "tokenizers",
  share: 8,
  deadlineMs: 20_000,
  refusals: [...fileRefusals, "InvalidRequest"],
  async start(scratch) {
    const folder = join(scratch, "tokenizer");
    await mkdir(folder);
    await writeFile(join(folder, "config.json"), JSON.stringify({ vocab_size: 2000 }));
    return { folder, kinds: await tokenizerKinds(), load: loadTokenizer };
  },
  input(random, { kinds }) {
    const bytes = Buffer.from(JSON.stringify(damagedJson(pick(random, kinds), random)) ?? "");
    return chance(random, 30) ? damaged(bytes, random, 3_000) : bytes;
  },
  async attempt({ folder, load }, bytes) {
    await writeFile(join(folder, "tokenizer.json"), bytes);
    const tokenizer = await load(folder);
    tokenizer.decode(tokenizer.encode("a probe, 12 of them\u00e9"));
  },
  plant: (subject) => ({ ...subject, load: unguarded(loadTokenizer, /./) }),
};
