// Tokenizers at import and in `inspect --verify`, and what inspect says of a dense folder.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cp, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { AppError } from "../../crds/common.ts";
import { importModel } from "./import.ts";
import { formatReport, inspect } from "./inspect.ts";

const dir = await mkdtemp(join(tmpdir(), "enodia-inspect-"));
after(() => rm(dir, { recursive: true }));
const golden = join(import.meta.dirname, "../../test/golden");
const quiet = () => undefined;
const importing = (source: string, out: string, folder = false) =>
  importModel(
    { source, out, folder, codecs: ["f32"], overwrite: false, cache: join(dir, "cache"), secrets: { HF_ENDPOINT: "http://127.0.0.1:9" } },
    quiet,
  );
const refusal = (code: string, message: RegExp) => ({ name: AppError.name, code, message });

const dense = join(dir, "dense");
await importing(join(golden, "tiny-gguf/tiny-llama.gguf"), dense, true);
const store = join(dir, "store");
await importing(join(golden, "tiny-f32"), store);

async function copyOf(from: string): Promise<string> {
  const copy = await mkdtemp(join(dir, "copy-"));
  await cp(from, copy, { recursive: true });
  return copy;
}

async function edit(path: string, change: (json: any) => void): Promise<void> {
  const json = JSON.parse(await readFile(path, "utf8"));
  change(json);
  await writeFile(path, JSON.stringify(json));
}

const unusable: Readonly<Record<string, readonly [spoil: (folder: string) => Promise<unknown> | unknown, want: RegExp, code?: string]>> = {
  "a tokenizer.json that is not JSON": [
    (folder) => writeFile(join(folder, "tokenizer.json"), "garbage"),
    /tokenizer\.json: is not JSON; import/,
  ],
  "a tokenizer.json of another form": [(folder) => writeFile(join(folder, "tokenizer.json"), "{}"), /tokenizer\.json: field model/],
  "a tokenizer that cannot encode": [
    (folder) => edit(join(folder, "tokenizer.json"), (json) => (json.pre_tokenizer = { type: "Other" })),
    /tokenizer\.json: cannot be used \(Unknown PreTokenizer/,
  ],
  "a tokenizer that knows no letter": [
    (folder) => edit(join(folder, "tokenizer.json"), (json) => Object.assign(json.model, { vocab: {}, merges: [] })),
    /tokenizer\.json: cannot be used \(it encodes text to no token at all\)/,
  ],
  "a token above the model's vocabulary": [
    (folder) => edit(join(folder, "tokenizer.json"), (json) => (json.model.vocab.zzz = 320)),
    /tokenizer\.json: token "zzz" has id 320, the model's vocabulary has 320/,
  ],
  "an added token above the model's vocabulary": [
    (folder) => edit(join(folder, "tokenizer.json"), (json) => json.added_tokens.push({ id: 400, content: "<pad>" })),
    /token "<pad>" has id 400/,
  ],
  "an end of text above the model's vocabulary": [
    (folder) => edit(join(folder, "generation_config.json"), (json) => (json.eos_token_id = [2, 320])),
    /generation_config\.json: eos_token_id is 320, the model's vocabulary has 320/,
  ],
  "a chat template that does not parse": [
    (folder) => writeFile(join(folder, "chat_template.jinja"), "{% if %}"),
    /chat_template\.jinja: the chat template does not parse/,
  ],
  "a tokenizer_config.json that is a FIFO": [
    async (folder) => {
      await rm(join(folder, "tokenizer_config.json"));
      execFileSync("mkfifo", [join(folder, "tokenizer_config.json")]);
    },
    /tokenizer_config\.json: is a FIFO, not a regular file/,
    "ModelNotFound",
  ],
};

for (const [sentence, [spoil, want, code = "BadTokenizer"]] of Object.entries(unusable)) {
  for (const [kind, from] of Object.entries({ checkpoint: join(golden, "tiny-f32"), "dense folder": dense })) {
    test(`a ${kind} with ${sentence} is not imported`, { timeout: 20_000 }, async () => {
      const source = await copyOf(from);
      await spoil(source);
      const before = await readdir(dir);
      await assert.rejects(importing(source, join(dir, "never"), from === dense), refusal(code, want));
      assert.deepEqual(await readdir(dir), before);
    });
  }
}

test("--verify reads the files beside the weights too: one changed byte in the tokenizer is found", async () => {
  const whole = await inspect({ dir: store, verify: true }, quiet);
  assert.ok(whole.kind === "store");
  assert.deepEqual(whole.verified, { units: 8, denseTensors: 17, files: 4 });
  const copy = await copyOf(store);
  const path = join(copy, "tokenizer.json");
  const text = await readFile(path, "utf8");
  await writeFile(path, text.replace('"Ġthe"', '"Ġtha"'));
  assert.notEqual(await readFile(path, "utf8"), text);
  assert.equal((await inspect({ dir: copy, verify: false }, quiet)).kind, "store");
  await assert.rejects(inspect({ dir: copy, verify: true }, quiet), refusal("CorruptShard", /tokenizer\.json: does not match its hash/));
});

test("--verify of a store that lists no files, as older ones, loads its tokenizer", async () => {
  const copy = await copyOf(store);
  await edit(join(copy, "expert-index.json"), (json) => delete json.files);
  const report = await inspect({ dir: copy, verify: true }, quiet);
  assert.deepEqual(report.verified, { units: 8, denseTensors: 17, files: 0 });
  await writeFile(join(copy, "tokenizer.json"), "{}");
  await assert.rejects(inspect({ dir: copy, verify: true }, quiet), refusal("BadTokenizer", /tokenizer\.json: field model/));
});

test("a dense folder is called one, with what it is for", async () => {
  const report = await inspect({ dir: dense, verify: true }, quiet);
  assert.ok(report.kind === "dense");
  assert.deepEqual([report.architecture, report.layers, report.vocabulary], ["LlamaForCausalLM", 2, 320]);
  assert.deepEqual(report.verified, { tensors: report.tensors });
  assert.match(formatReport(report), /^dense folder .*\/dense\n(.|\n)*enodia model upcycle/);
});

test("a damaged dense folder is not called whole", async () => {
  const copy = await copyOf(dense);
  const path = join(copy, "model.safetensors");
  await writeFile(path, (await readFile(path)).subarray(0, -1));
  await assert.rejects(inspect({ dir: copy, verify: false }, quiet), refusal("BadSafetensors", /past the file/));
  await assert.rejects(inspect({ dir: golden, verify: true }, quiet), refusal("ModelNotFound", /has no expert-index\.json/));
});
