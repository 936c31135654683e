// Checkpoints that say two things, and weights that no model has: each is refused by name, at import or by `inspect --verify`.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { copyFile, cp, mkdtemp, open, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { AppError } from "../../crds/common.ts";
import { codecNames } from "../../crds/names.ts";
import { changedCheckpoint } from "../../test/kit/models/changed-checkpoint.ts";
import { openCheckpoint } from "../weights/checkpoint.ts";
import { modelDigest } from "../weights/digest.ts";
import { bytesOf, f16Bits } from "../weights/floats.ts";
import { openStore } from "../weights/store-reader.ts";
import { importModel } from "./import.ts";
import { importMoe } from "./import-moe.ts";
import { inspect } from "./inspect.ts";
import { split } from "./surgery/split.ts";
import { assemble } from "./upcycle/assemble.ts";
import { upcycle } from "./upcycle/upcycle.ts";

const dir = await mkdtemp(join(tmpdir(), "enodia-checkpoints-"));
after(() => rm(dir, { recursive: true }));
const golden = join(import.meta.dirname, "../../test/golden");
const quiet = () => undefined;
const refusal = (code: string, message: RegExp) => ({ name: AppError.name, code, message });

const tiny = join(golden, "tiny-f32");
const [embed, head] = ["model.embed_tokens.weight", "lm_head.weight"];
const importing = (from: string, codecs = codecNames as readonly (typeof codecNames)[number][]) =>
  importMoe({ from, out: `${from}-store`, codecs, overwrite: false }, quiet);

test("a tied head beside another head is refused; beside the same one the table is read", async () => {
  const differs = /tie_word_embeddings is true, but lm_head\.weight differs from model\.embed_tokens\.weight at \[0, 0\]; set it to false/;
  const other = await changedCheckpoint(tiny, dir, (_, config) => (config.tie_word_embeddings = true));
  await assert.rejects(importing(other), refusal("UnsupportedModel", differs));
  const same = await changedCheckpoint(tiny, dir, (tensors, config) => {
    config.tie_word_embeddings = true;
    tensors.set(head, tensors.get(embed)!);
  });
  assert.ok(!Object.keys((await importing(same)).dense).includes(head));
});

test("a configuration of quantization over plain tensors is refused by name; one that is null is none", async () => {
  const said = await changedCheckpoint(tiny, dir, (_, config) => (config.quantization_config = { quant_method: "fp8" }));
  const plain = /config\.json: quantization_config says fp8, but all tensors are plain; remove it if/;
  await assert.rejects(importing(said), refusal("UnsupportedModel", plain));
  await importing(await changedCheckpoint(tiny, dir, (_, config) => (config.quantization_config = null)));
});

test("a dense model's tied head beside another head, and tensors of nothing, are refused by all that read it", async () => {
  const dense = join(dir, "dense");
  const shell = {
    codecs: ["f32"] as const,
    overwrite: true,
    folder: true,
    cache: join(dir, "cache"),
    secrets: { HF_ENDPOINT: "http://127.0.0.1:9" },
  };
  await importModel({ ...shell, source: join(golden, "tiny-gguf/tiny-llama.gguf"), out: dense }, quiet);
  const two = await changedCheckpoint(dense, dir, (tensors) => {
    const table = tensors.get(embed)!;
    tensors.set(head, { shape: table.shape, data: table.data.map((value, i) => (i === 65 ? value + 1 : value)) });
  });
  const differs = refusal("UnsupportedModel", /lm_head\.weight differs from model\.embed_tokens\.weight at \[1, 1\]/);
  const strange = await changedCheckpoint(dense, dir, (tensors) => {
    tensors.set("model.layers.0.mlp.down_proj.lora_A", { shape: [1, 1], data: new Float32Array(1) });
  });
  const unknown = refusal("UnknownArchitecture", /down_proj\.lora_A" belongs to no part of LlamaForCausalLM/);
  const options = { ...shell, out: join(dir, "moe"), experts: 2, topK: 2, noise: 0, seed: 1, threads: 1 };
  for (const [from, want] of [
    [two, differs],
    [strange, unknown],
  ] as const) {
    await assert.rejects(importModel({ ...shell, source: from, out: options.out }, quiet), want);
    await assert.rejects(upcycle({ ...options, from }, quiet), want);
    await assert.rejects(split({ ...options, from, by: "columns" }, quiet), want);
    await assert.rejects(assemble({ ...options, branches: [from, from], attention: "mean" }, quiet), want);
  }
});

test("tensors of layers that predict further tokens are left out of a store; without the field that says so they are refused", async () => {
  const extra = "model.layers.3.eh_proj.weight";
  const withLayer = (layers: number) =>
    changedCheckpoint(join(golden, "families/deepseek-v3"), dir, (tensors, config) => {
      config.num_nextn_predict_layers = layers;
      tensors.set(extra, { shape: [1], data: Float32Array.of(1) });
    });
  assert.ok(!Object.keys((await importing(await withLayer(1), ["f32"])).dense).includes(extra));
  await assert.rejects(importing(await withLayer(0), ["f32"]), refusal("UnknownArchitecture", /model\.layers\.3\.eh_proj\.weight/));
});

const unusable: Readonly<Record<string, readonly [tensor: string, at: number, value: number, want: RegExp]>> = {
  "a NaN of the dense part": [
    "model.layers.1.self_attn.q_proj.weight",
    3 * 64 + 17,
    Number.NaN,
    /model\.safetensors: tensor "model\.layers\.1\.self_attn\.q_proj\.weight" has NaN at \[3, 17\]/,
  ],
  "an infinite weight of an expert": [
    "model.layers.0.block_sparse_moe.experts.2.w2.weight",
    96 + 5,
    Number.NEGATIVE_INFINITY,
    /tensor "model\.layers\.0\.block_sparse_moe\.experts\.2\.w2\.weight" has -Infinity at \[1, 5\]/,
  ],
  "a NaN of an expert": [
    "model.layers.1.block_sparse_moe.experts.3.w1.weight",
    0,
    Number.NaN,
    /experts\.3\.w1\.weight" has NaN at \[0, 0\]/,
  ],
  "an absurd weight of a norm": ["model.norm.weight", 63, 1e30, /model\.norm\.weight" has 1\.0\d+e\+30 at \[63\]/],
};
for (const [sentence, [tensor, at, value, want]] of Object.entries(unusable)) {
  test(`${sentence} is refused at import with tensor and position, and nothing is written`, async () => {
    const from = await changedCheckpoint(tiny, dir, (tensors) => (tensors.get(tensor)!.data[at] = value));
    for (const codec of codecNames) await assert.rejects(importing(from, [codec]), refusal("UnusableWeight", want));
    await assert.rejects(openStore(`${from}-store`), refusal("ModelNotFound", /no such folder/));
  });
}

/** Overwrites a number of a store, in the dense part or in a unit, and makes index and digest those of the changed bytes. */
async function planted(
  store: string,
  { file, at, bytes }: { file: string; at: number; bytes: Uint8Array },
  change: (index: any, written: Buffer) => void,
): Promise<string> {
  const copy = await mkdtemp(join(dir, "planted-"));
  await cp(store, copy, { recursive: true });
  const handle = await open(join(copy, file), "r+");
  await handle.write(bytes, 0, bytes.length, at);
  await handle.close();
  const index = JSON.parse(await readFile(join(copy, "expert-index.json"), "utf8"));
  change(index, await readFile(join(copy, file)));
  index.modelDigest = modelDigest(await readFile(join(copy, "config.json"), "utf8"), index);
  await writeFile(join(copy, "expert-index.json"), JSON.stringify(index));
  return copy;
}
const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

test("inspect --verify finds what no model has in a store whose hashes are right, in every codec and in the dense part", async () => {
  const store = join(dir, "store");
  const { codecs } = await importMoe({ from: tiny, out: store, codecs: codecNames, overwrite: false }, quiet);
  const verify = (folder: string) => inspect({ dir: folder, verify: true }, quiet);
  const inUnit = async (codec: (typeof codecNames)[number], within: number, bytes: Uint8Array) => {
    const unit = codecs[codec]!.units[1]![2]!;
    return planted(store, { file: codecs[codec]!.file, at: unit.offset + within, bytes }, (index, written) => {
      index.codecs[codec].units[1][2].sha256 = sha256(written.subarray(unit.offset, unit.offset + unit.bytes));
    });
  };
  const f32 = (value: number) => bytesOf(Float32Array.of(value));
  const half = (value: number) => new Uint8Array(Uint16Array.of(f16Bits(value)).buffer);
  await assert.rejects(
    verify(await inUnit("f32", 4 * (64 + 3), f32(Number.NaN))),
    refusal("UnusableWeight", /w1 of expert 2 of layer 1 \(f32\) has NaN at \[1, 3\]/),
  );
  await assert.rejects(
    verify(await inUnit("iq4_nl", 18 * 2, half(Number.NaN))),
    refusal("UnusableWeight", /w1 of expert 2 of layer 1 \(iq4_nl\) has NaN at \[1, 0\]/),
  );
  await assert.rejects(
    verify(await inUnit("iq4_nl", 0, half(65_504))),
    refusal("UnusableWeight", /w1 of expert 2 of layer 1 \(iq4_nl\) has -?\d{7,} at \[0, \d+\]/),
  );
  const bytes = await readFile(join(store, "dense.safetensors"));
  const start = 8 + Number(bytes.readBigUInt64LE(0));
  const [begin, end] = JSON.parse(bytes.toString("utf8", 8, start))["model.norm.weight"].data_offsets as [number, number];
  const place = { file: "dense.safetensors", at: start + begin + 4 * 7, bytes: f32(Number.POSITIVE_INFINITY) };
  const dense = await planted(store, place, (index, now) => {
    index.dense["model.norm.weight"] = sha256(now.subarray(start + begin, start + end));
  });
  await assert.rejects(verify(dense), refusal("UnusableWeight", /dense tensor "model\.norm\.weight" has Infinity at \[7\]/));
  const whole = await verify(store);
  assert.equal(whole.kind === "store" && whole.verified?.units, 8 * codecNames.length);
});

/** A copy of the sharded checkpoint with another index, and what else the change does to its folder. */
async function sharded(change: (map: Record<string, string>, folder: string) => Promise<void> | void): Promise<string> {
  const copy = await mkdtemp(join(dir, "shards-"));
  await cp(join(golden, "tiny-bf16"), copy, { recursive: true });
  const path = join(copy, "model.safetensors.index.json");
  const index = JSON.parse(await readFile(path, "utf8"));
  await change(index.weight_map, copy);
  await writeFile(path, JSON.stringify(index));
  return copy;
}

const disagreeing: Readonly<Record<string, readonly [change: Parameters<typeof sharded>[0], want: RegExp]>> = {
  "a whole checkpoint beside the shards": [
    (_, folder) => copyFile(join(tiny, "model.safetensors"), join(folder, "model.safetensors")),
    /index\.json: lists other files, and model\.safetensors is there too/,
  ],
  "an index that leaves a tensor out": [
    (map) => void delete map["model.norm.weight"],
    /says nothing of tensor "model\.norm\.weight" in model-0000\d-of-00002\.safetensors/,
  ],
  "an index that lists a tensor which no shard has": [
    (map) => void Object.assign(map, { "model.more.weight": "model-00001-of-00002.safetensors" }),
    /says that tensor "model\.more\.weight" is in model-00001-of-00002\.safetensors, which has no such tensor/,
  ],
  "an index that looks for a tensor in the other shard": [
    (map) => {
      const [first, second] = [...new Set(Object.values(map))] as [string, string];
      map["model.norm.weight"] = map["model.norm.weight"] === first ? second : first;
    },
    /says that tensor "model\.norm\.weight" is in .*, which has no such tensor/,
  ],
};
for (const [sentence, [change, want]] of Object.entries(disagreeing)) {
  test(`${sentence} is refused`, async () => {
    await assert.rejects(openCheckpoint(await sharded(change)), refusal("BadSafetensors", want));
  });
}

test("an index beside the one file that it lists is read", async () => {
  const copy = await mkdtemp(join(dir, "one-"));
  await cp(tiny, copy, { recursive: true });
  const source = await openCheckpoint(tiny);
  const weight_map = Object.fromEntries(source.names.map((name) => [name, "model.safetensors"]));
  await source.close();
  await writeFile(join(copy, "model.safetensors.index.json"), JSON.stringify({ weight_map }));
  const both = await openCheckpoint(copy);
  assert.deepEqual(both.names, Object.keys(weight_map));
  await both.close();
});
