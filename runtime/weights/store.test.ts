// The model store end to end on a golden checkpoint: import, open, read, and every kind of damage.
import assert from "node:assert/strict";
import { cp, mkdtemp, open, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { AppError } from "../../crds/common.ts";
import { asF32 } from "../kernels/weights.ts";
import { importMoe } from "../modelstore/import-moe.ts";
import { openCheckpoint } from "./checkpoint.ts";
import { writeFolder } from "./model-folder.ts";
import { openStore } from "./store-reader.ts";

const dir = await mkdtemp(join(tmpdir(), "enodia-store-"));
after(() => rm(dir, { recursive: true }));
const golden = join(import.meta.dirname, "../../test/golden");
const quiet = () => undefined;
const store = join(dir, "tiny");
const index = await importMoe({ from: join(golden, "tiny-f32"), out: store, codecs: ["f32", "iq4_nl"], overwrite: false }, quiet);

const refusal = (code: string, message: RegExp) => ({ name: AppError.name, code, message });

test("experts and dense tensors read back as the checkpoint has them", async () => {
  const opened = await openStore(store);
  const checkpoint = await openCheckpoint(join(golden, "tiny-f32"));
  for (let layer = 0; layer < 2; layer++) {
    for (let expert = 0; expert < 4; expert++) {
      const exact = opened.decodeUnit(await opened.readUnit(layer, expert, "f32"), "f32", layer, expert);
      const coarse = opened.decodeUnit(await opened.readUnit(layer, expert, "iq4_nl"), "iq4_nl", layer, expert);
      for (const matrix of ["w1", "w2", "w3"] as const) {
        const want = await checkpoint.read(`model.layers.${layer}.block_sparse_moe.experts.${expert}.${matrix}.weight`);
        const have = exact[matrix]!;
        const quantized = coarse[matrix]!;
        assert.ok(have.form === "f32" && quantized.form === "iq4_nl");
        assert.deepEqual(have.data, want);
        const most = want.reduce((largest, value) => Math.max(largest, Math.abs(value)), 0);
        assert.ok(asF32(quantized).every((value, i) => Math.abs(value - want[i]!) <= 0.15 * most));
      }
    }
  }
  for (const name of opened.denseNames) assert.deepEqual(asF32(await opened.readDense(name)), await checkpoint.read(name));
  await checkpoint.close();
  await opened.close();
});

test("the digest is the same on every import and covers what was imported", async () => {
  const again = await importMoe({ from: join(golden, "tiny-f32"), out: store, codecs: ["f32", "iq4_nl"], overwrite: true }, quiet);
  assert.equal(again.modelDigest, index.modelDigest);
  const other = await importMoe(
    { from: join(golden, "tiny-f16"), out: join(dir, "other"), codecs: ["f32", "iq4_nl"], overwrite: false },
    quiet,
  );
  assert.notEqual(other.modelDigest, index.modelDigest);
});

test("an existing store is not overwritten unless asked, and a failed write leaves nothing", async () => {
  const options = { from: join(golden, "tiny-f32"), out: store, codecs: ["f32"] as const, overwrite: false };
  await assert.rejects(importMoe(options, quiet), refusal("AlreadyExists", /--overwrite/));
  const before = await readdir(dir);
  await assert.rejects(
    writeFolder({ dir: join(dir, "fails"), overwrite: false, sources: [] }, async (work) => {
      await writeFile(join(work, "half"), "x");
      throw new Error("disk full");
    }),
    /disk full/,
  );
  assert.deepEqual(await readdir(dir), before);
});

async function damaged(change: (copy: string) => Promise<void>): Promise<string> {
  const copy = await mkdtemp(join(dir, "damaged-"));
  await cp(store, copy, { recursive: true });
  await change(copy);
  return copy;
}

async function flip(path: string, at: number): Promise<void> {
  const handle = await open(path, "r+");
  const byte = Buffer.alloc(1);
  await handle.read(byte, 0, 1, at);
  byte[0]! ^= 1;
  await handle.write(byte, 0, 1, at);
  await handle.close();
}

test("one flipped bit in a unit is found, and only that unit is refused", async () => {
  const copy = await damaged((folder) => flip(join(folder, "experts-iq4_nl.bin"), index.codecs.iq4_nl!.units[1]![2]!.offset + 100));
  const opened = await openStore(copy);
  await assert.rejects(
    opened.readUnit(1, 2, "iq4_nl"),
    refusal("CorruptShard", /expert 2 of layer 1 \(iq4_nl\) does not match its hash; .*import the model again/),
  );
  await opened.readUnit(1, 3, "iq4_nl");
  await opened.close();
});

test("one flipped bit in a dense tensor is found", async () => {
  const copy = await damaged(async (folder) =>
    flip(join(folder, "dense.safetensors"), (await readFile(join(folder, "dense.safetensors"))).length - 1),
  );
  const opened = await openStore(copy);
  await assert.rejects(opened.readDense(opened.denseNames.at(-1)!), refusal("CorruptShard", /does not match its hash/));
  await opened.close();
});

test("a config.json that was edited after the import is refused: ranks would agree on a digest and compute differently", async () => {
  const copy = await damaged(async (folder) => {
    const path = join(folder, "config.json");
    const edited = (await readFile(path, "utf8")).replace(/"rope_theta": [\d.e]+/, '"rope_theta": 12345');
    assert.match(edited, /12345/);
    await writeFile(path, edited);
  });
  await assert.rejects(openStore(copy), refusal("CorruptShard", /config\.json .*does not match; .*import the model again/));
});

test("a truncated unit file is a corrupt shard, not a crash", async () => {
  const copy = await damaged(async (folder) => {
    const handle = await open(join(folder, "experts-f32.bin"), "r+");
    await handle.truncate(1000);
    await handle.close();
  });
  const opened = await openStore(copy);
  await assert.rejects(opened.readUnit(1, 3, "f32"), refusal("CorruptShard", /truncated or broken/));
  await opened.close();
});

test("a folder that is no store says how to make one; a codec or expert that is not there is named", async () => {
  await assert.rejects(openStore(join(dir, "nowhere")), refusal("ModelNotFound", /enodia model import/));
  await assert.rejects(openStore(golden), refusal("ModelNotFound", /has no expert-index\.json/));
  const opened = await openStore(store);
  await assert.rejects(opened.readUnit(2, 0, "f32"), refusal("ExpertNotFound", /2 layers of 4/));
  await assert.rejects(opened.readDense("x"), refusal("MissingTensor", /"x"/));
  await opened.close();
  const single = join(dir, "single");
  await importMoe({ from: join(golden, "tiny-f32"), out: single, codecs: ["f32"], overwrite: false }, quiet);
  const f32Only = await openStore(single);
  await assert.rejects(f32Only.readUnit(0, 0, "iq4_nl"), refusal("CodecNotFound", /expertCodec/));
  assert.throws(() => f32Only.unitForms("source", 0, 0), refusal("CodecNotFound", /holds no source experts, only f32/));
  await f32Only.close();
});

const oneByOne =
  (layers: number, experts = 4) =>
  (json: any) => {
    delete json.ffn;
    json.layerShapes = Array.from({ length: layers }, () => ({ experts, topK: 2, matrices: [{ name: "w", shape: [2, 1] }] }));
  };

type Wrong = readonly [change: (json: any) => void, code: string, want: RegExp];

const wrongIndex: Readonly<Record<string, Wrong>> = {
  "another version": [(json) => (json.version = 9), "BadModelIndex", /field version/],
  "an architecture nobody serves": [(json) => (json.architecture = "GptForCausalLM"), "UnknownArchitecture", /supported are Mixtral/],
  "a unit that overlaps another": [(json) => (json.codecs.f32.units[0][1].offset = 0), "CorruptShard", /overlap/],
  "a unit of another size": [(json) => (json.codecs.f32.units[0][0].bytes = 5), "CorruptShard", /5 bytes/],
  "an offset that is not aligned": [(json) => (json.codecs.iq4_nl.units[1][3].offset += 1), "CorruptShard", /multiple of 4096/],
  "a file outside the folder": [(json) => (json.codecs.f32.file = "../x"), "BadModelIndex", /codecs\.f32\.file/],
  "a layer too few": [(json) => json.codecs.f32.units.pop(), "CorruptShard", /1 layers/],
  "neither ffn nor layers one by one": [(json) => delete json.ffn, "CorruptShard", /either ffn or layerShapes/],
  "layers one by one, but not all": [oneByOne(1), "CorruptShard", /describes 1 layers of 2/],
  "layers of other experts than its units": [oneByOne(2, 3), "CorruptShard", /up to 3 experts and top-2, not 4 and 2/],
  "matrices of another size than its units": [oneByOne(2), "CorruptShard", /a f32 unit has \d+ bytes, not 8/],
  "a codec that there is no more": [
    (json) => (json.codecs.int4 = json.codecs.iq4_nl),
    "BadModelIndex",
    /int4.*import the model again with --codec q4_0/,
  ],
  "a billion experts": [(json) => (json.experts = 1e9), "BadModelIndex", /field experts/],
};

for (const [sentence, [change, code, want]] of Object.entries(wrongIndex)) {
  test(`an index with ${sentence} is refused`, async () => {
    const copy = await damaged(async (folder) => {
      const json = JSON.parse(await readFile(join(folder, "expert-index.json"), "utf8"));
      change(json);
      await writeFile(join(folder, "expert-index.json"), JSON.stringify(json));
    });
    await assert.rejects(openStore(copy), refusal(code, want));
  });
}

test("a truncated index is refused by name", async () => {
  const copy = await damaged(async (folder) => writeFile(join(folder, "expert-index.json"), '{"version": 1, "la'));
  await assert.rejects(openStore(copy), refusal("BadModelIndex", /expert-index\.json: is not JSON$/));
});

async function folderWith(change: (config: any) => void): Promise<string> {
  const copy = await mkdtemp(join(dir, "hf-"));
  await cp(join(golden, "tiny-f32"), copy, { recursive: true });
  const config = JSON.parse(await readFile(join(copy, "config.json"), "utf8"));
  change(config);
  await writeFile(join(copy, "config.json"), JSON.stringify(config));
  return copy;
}

const wrongConfig: Readonly<Record<string, Wrong>> = {
  "a hidden size that the tensors contradict": [(config) => (config.hidden_size = 128), "ShapeMismatch", /its configuration implies/],
  "a layer too many": [(config) => (config.num_hidden_layers = 3), "MissingTensor", /incomplete/],
  "a layer too few": [(config) => (config.num_hidden_layers = 1), "UnknownArchitecture", /belongs to no part/],
  "another activation": [(config) => (config.hidden_act = "gelu"), "UnsupportedModel", /hidden_act is "gelu"/],
  "scaled rope": [(config) => (config.rope_parameters.rope_type = "yarn"), "UnsupportedModel", /rope_type/],
  "more experts per token than experts": [(config) => (config.num_experts_per_tok = 9), "UnsupportedModel", /num_experts_per_tok is 9/],
  "layers by the thousand": [
    (config) => Object.assign(config, { num_hidden_layers: 1024 }),
    "MissingTensor",
    /has no tensor "model\.layers\.2\./,
  ],
  "lists within lists": [
    (config) => (config.notes = JSON.parse("[".repeat(101) + "]".repeat(101))),
    "BadModelConfig",
    /hf-\w+\/config\.json: nests more than 100 levels/,
  ],
  "more than any config.json needs": [
    (config) => (config.notes = "x".repeat(5_000_000)),
    "BadModelConfig",
    /hf-\w+\/config\.json: has \d+ bytes, more than the 4194304 allowed/,
  ],
  "a size that is text": [(config) => (config.vocab_size = "many"), "InvalidModelConfig", /hf-\w+: config\.json is not usable: vocab_size/],
};

for (const [sentence, [change, code, want]] of Object.entries(wrongConfig)) {
  test(`a checkpoint whose config has ${sentence} is refused and nothing is written`, async () => {
    const from = await folderWith(change);
    const out = `${from}-out`;
    await assert.rejects(importMoe({ from, out, codecs: ["f32"], overwrite: false }, quiet), refusal(code, want));
    await assert.rejects(openStore(out), refusal("ModelNotFound", /no such folder/));
  });
}

test("a config that claims 1,024 layers of 4,096 experts costs no more time than the tensors that are there", async () => {
  const from = await folderWith((config) => Object.assign(config, { num_hidden_layers: 1024, num_local_experts: 4096 }));
  const started = performance.now();
  await assert.rejects(
    importMoe({ from, out: `${from}-out`, codecs: ["f32"], overwrite: false }, quiet),
    refusal("ShapeMismatch", /gate\.weight" is \[4, 64\], its configuration implies \[4096, 64\]/),
  );
  const ms = performance.now() - started;
  assert.ok(ms < 5000, `${ms} ms; naming 12 million tensors takes 20 s and more`);
});
