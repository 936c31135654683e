// GGUF models with experts, as llama.cpp's converters lay them out, to model stores: the same bytes as from the Hugging Face folder,
// blocks of a codec's type kept bit for bit, several files, and never more of a file in memory than is said.

import assert from "node:assert/strict";
import { copyFile, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { AppError } from "../../../crds/common.ts";
import type { CodecName } from "../../../crds/names.ts";
import { type GgufMeta, type GgufTensorToWrite, ggufBytes, ggufHeader, writeSplitGguf } from "../../../test/kit/models/gguf-writer.ts";
import { mixtralGguf, tokenizerMetadata } from "../../../test/kit/models/moe-gguf.ts";
import { familyOf } from "../../models/index.ts";
import { loadTokenizer } from "../../text/tokenizer.ts";
import { codecFor } from "../../weights/codecs/index.ts";
import { bytesOf } from "../../weights/floats.ts";
import { openGguf } from "../../weights/gguf.ts";
import { openStore } from "../../weights/store-reader.ts";
import { pieceBytesMax } from "../../weights/tensor-view.ts";
import { importModel } from "../import.ts";
import { ggufCheckpoint } from "./checkpoint.ts";
import { ggufModel } from "./index.ts";

const dir = await mkdtemp(join(tmpdir(), "enodia-gguf-moe-"));
after(() => rm(dir, { recursive: true }));
const golden = join(import.meta.dirname, "../../../test/golden");
const quiet = () => undefined;
let outs = 0;
const importing = (source: string, codecs: readonly CodecName[]) =>
  importModel(
    {
      source,
      out: join(dir, `out-${outs++}`),
      codecs,
      overwrite: false,
      cache: join(dir, "cache"),
      secrets: { HF_ENDPOINT: "http://127.0.0.1:9" },
    },
    quiet,
  );
const refusal = (code: string, message: RegExp) => ({ name: AppError.name, code, message });

const codec = codecFor("q8_0");
const q8 = {
  type: 8,
  bytes: (values: Float32Array) =>
    codec.encode({ w: values }, [{ name: "w", shape: [values.length / 32, 32] }]).subarray(0, (values.length / 32) * 34),
};

const hashesOf = async (folder: string) => {
  const store = await openStore(folder);
  await store.close();
  const units = Object.entries(store.index.codecs).map(([name, { units }]) => [name, units.flat().map(({ sha256 }) => sha256)]);
  return { dense: store.index.dense, units: Object.fromEntries(units) };
};

for (const layout of ["stacked", "single"] as const)
  test(`a Mixtral whose experts are ${layout} becomes the store that its Hugging Face folder becomes`, async () => {
    const { metadata, tensors } = await mixtralGguf(layout);
    const path = join(dir, `${layout}.gguf`);
    await writeFile(path, ggufBytes(metadata, tensors));
    const [from, want] = [await importing(path, ["f32", "iq4_nl"]), await importing(join(golden, "tiny-f32"), ["f32", "iq4_nl"])];
    assert.deepEqual([from.kind, from.architecture], ["store", "MixtralForCausalLM"]);
    assert.deepEqual(await hashesOf(from.out), await hashesOf(want.out));
    const tokenizer = await loadTokenizer(from.out);
    const same = await loadTokenizer(want.out);
    for (const text of ["The experts", "return left + 12"]) assert.deepEqual(tokenizer.encode(text), same.encode(text));
    assert.equal(tokenizer.chatText([{ role: "user", content: "a" }]), same.chatText([{ role: "user", content: "a" }]));
  });

test("experts in three files and in a codec's type are kept bit for bit", async () => {
  const { metadata, tensors } = await mixtralGguf("stacked", q8);
  const path = await writeSplitGguf(join(dir, "parts"), metadata, tensors, 3);
  const { out } = await importing(path, ["q8_0"]);
  const store = await openStore(out);
  const stack = tensors.find(({ name }) => name === "blk.1.ffn_up_exps.weight")!;
  const w3 = store.decodeUnit(await store.readUnit(1, 2, "q8_0"), "q8_0", 1, 2).w3!;
  assert.equal(w3.form, "q8_0");
  const each = stack.data.length / 4;
  assert.deepEqual(Buffer.from((w3 as { data: Uint8Array }).data), Buffer.from(stack.data.subarray(2 * each, 3 * each)));
  await store.close();
  await assert.rejects(
    importing(path.replace("00001-of", "00002-of"), ["q8_0"]),
    refusal("BadGguf", /is not the first of 3 files; give .*parts-00001-of-00003\.gguf/),
  );
  await rm(path.replace("00001-of", "00003-of"));
  await assert.rejects(importing(path, ["q8_0"]), refusal("BadGguf", /parts-00003-of-00003\.gguf: not found/));
  await copyFile(path.replace("00001-of", "00002-of"), path.replace("00001-of", "00003-of"));
  await assert.rejects(importing(path, ["q8_0"]), refusal("BadGguf", /says that it is part 2 of 3, where part 3 of 3 is expected/));
});

/** Sizes of Qwen3-30B-A3B. */
const qwen = { layers: 48, hidden: 2048, ffn: 768, experts: 128, vocab: 151_936, heads: 32, kv: 4, head: 128 };
const decoder = (architecture: string, more: Readonly<Record<string, GgufMeta>>): Readonly<Record<string, GgufMeta>> => ({
  "general.architecture": architecture,
  ...Object.fromEntries(Object.entries(more).map(([key, value]) => [`${architecture}.${key}`, value])),
});
const qwenMetadata = decoder("qwen3moe", {
  block_count: qwen.layers,
  context_length: 40_960,
  embedding_length: qwen.hidden,
  feed_forward_length: 6144,
  expert_feed_forward_length: qwen.ffn,
  expert_count: qwen.experts,
  expert_used_count: 8,
  "attention.head_count": qwen.heads,
  "attention.head_count_kv": qwen.kv,
  "attention.key_length": qwen.head,
  "attention.layer_norm_rms_epsilon": 1e-6,
  "rope.freq_base": 1_000_000,
});

/** All tensors of Qwen3-30B-A3B in f32, 122 GB. */
function qwenTensors(): { name: string; shape: number[]; type: number; bytes: number }[] {
  const { layers, hidden, ffn, experts, vocab, heads, kv, head } = qwen;
  const shapes: Record<string, number[]> = {
    "token_embd.weight": [vocab, hidden],
    "output_norm.weight": [hidden],
    "output.weight": [vocab, hidden],
  };
  for (let layer = 0; layer < layers; layer++) {
    const own: Record<string, number[]> = {
      ...{ attn_norm: [hidden], attn_q_norm: [head], attn_k_norm: [head], ffn_norm: [hidden], ffn_gate_inp: [experts, hidden] },
      ...{ attn_q: [heads * head, hidden], attn_k: [kv * head, hidden], attn_v: [kv * head, hidden], attn_output: [hidden, heads * head] },
      ...{ ffn_gate_exps: [experts, ffn, hidden], ffn_up_exps: [experts, ffn, hidden], ffn_down_exps: [experts, hidden, ffn] },
    };
    for (const [part, shape] of Object.entries(own)) shapes[`blk.${layer}.${part}.weight`] = shape;
  }
  return Object.entries(shapes).map(([name, shape]) => ({ name, shape, type: 0, bytes: 4 * shape.reduce((a, b) => a * b, 1) }));
}

test("of a file of 122 GB no more is read at once than an expert's matrix, or a piece of another tensor", async () => {
  const tensors = qwenTensors();
  const header = ggufHeader(qwenMetadata, tensors);
  const size = header.length + tensors.reduce((sum, { bytes }) => sum + bytes, 0);
  assert.ok(size > 120e9);
  const reads: number[] = [];
  const file = await openGguf("huge.gguf", async (path) => ({
    path,
    size,
    async read(position, length) {
      reads.push(length);
      const bytes = new Uint8Array(length);
      if (position < header.length) bytes.set(header.subarray(position, position + length));
      return bytes;
    },
    close: async () => undefined,
  }));
  const checkpoint = ggufCheckpoint(file, ggufModel(file, 0));
  assert.equal(checkpoint.names.length, 3 + qwen.layers * (9 + 3 * qwen.experts));
  const header0 = reads.length;
  const down = await checkpoint.readStored("model.layers.47.mlp.experts.127.down_proj.weight");
  assert.deepEqual([down instanceof Float32Array && down.length, reads.at(-1)], [qwen.ffn * qwen.hidden, 4 * qwen.ffn * qwen.hidden]);
  let bytes = 0;
  for await (const piece of checkpoint.pieces("model.embed_tokens.weight")) {
    bytes += piece.length;
    if (bytes > 3 * pieceBytesMax - 1) break;
  }
  assert.equal(reads.length, header0 + 4);
  assert.ok(Math.max(...reads) <= pieceBytesMax, String(Math.max(...reads)));
  await checkpoint.close();
});

test("metadata of qwen3moe and olmoe give the configs that Hugging Face has", async () => {
  const embedding = { names: ["token_embd.weight", "output.weight"], shape: () => [qwen.vocab, qwen.hidden] };
  const configOf = (metadata: Readonly<Record<string, GgufMeta>>) =>
    ggufModel({ path: "x.gguf", metadata: new Map(Object.entries(metadata)), ...embedding }, 0).config;
  const shared = { hidden_act: "silu", attention_bias: false, tie_word_embeddings: false, vocab_size: qwen.vocab, torch_dtype: "float32" };
  assert.deepEqual(configOf({ ...qwenMetadata, "tokenizer.ggml.bos_token_id": 151_643, "tokenizer.ggml.eos_token_id": 151_645 }), {
    ...shared,
    architectures: ["Qwen3MoeForCausalLM"],
    model_type: "qwen3_moe",
    hidden_size: 2048,
    intermediate_size: 6144,
    moe_intermediate_size: 768,
    num_hidden_layers: 48,
    num_attention_heads: 32,
    num_key_value_heads: 4,
    head_dim: 128,
    num_experts: 128,
    num_experts_per_tok: 8,
    norm_topk_prob: true,
    decoder_sparse_step: 1,
    mlp_only_layers: [],
    use_sliding_window: false,
    sliding_window: null,
    max_position_embeddings: 40_960,
    rms_norm_eps: 1e-6,
    rope_theta: 1_000_000,
    bos_token_id: 151_643,
    eos_token_id: 151_645,
    pad_token_id: null,
  });
  const olmoe = decoder("olmoe", {
    block_count: 16,
    context_length: 4096,
    embedding_length: 2048,
    feed_forward_length: 1024,
    expert_count: 64,
    expert_used_count: 8,
    "attention.head_count": 16,
    "attention.head_count_kv": 16,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.freq_base": 10_000,
  });
  assert.deepEqual(configOf(olmoe), {
    ...shared,
    architectures: ["OlmoeForCausalLM"],
    model_type: "olmoe",
    hidden_size: 2048,
    intermediate_size: 1024,
    num_hidden_layers: 16,
    num_attention_heads: 16,
    num_key_value_heads: 16,
    head_dim: 128,
    num_experts: 64,
    num_experts_per_tok: 8,
    norm_topk_prob: false,
    clip_qkv: null,
    max_position_embeddings: 4096,
    rms_norm_eps: 1e-5,
    rope_theta: 10_000,
    bos_token_id: null,
    eos_token_id: null,
    pad_token_id: null,
  });
});

const latent = decoder("qwen3moe", {
  "rope.dimension_count": 64,
  "attention.kv_lora_rank": 512,
  "attention.key_length": 192,
  "attention.value_length": 128,
});

test("tensors are called as GGUF's own package says, in every architecture", async () => {
  const { names } = JSON.parse(await readFile(join(golden, "ggml-blocks.json"), "utf8"));
  for (const [architecture, own] of Object.entries<Record<string, string>>(names)) {
    const all = architecture === "deepseek2" ? { ...qwenMetadata, ...latent } : qwenMetadata;
    const metadata = Object.entries(all).map(([key, value]) => [key.replace("qwen3moe", architecture), value] as const);
    const stored = Object.values(own);
    const file = {
      ...{ path: "x.gguf", formats: [], names: stored, form: () => "f32" as const, readRows: never, read: never, close: never },
      metadata: new Map<string, GgufMeta>([...metadata, ["general.architecture", architecture]]),
      shape: (name: string) => (name.includes("_exps") ? [qwen.experts, 64, 64] : [64, 64]),
    };
    const checkpoint = ggufCheckpoint(file, ggufModel(file, 0));
    for (const [name, gguf] of Object.entries(own)) {
      const single = name.replace(".experts.", ".experts.7.");
      assert.equal(checkpoint.storedName(single), gguf, `${architecture}: ${single}`);
      assert.ok(checkpoint.names.includes(single), single);
    }
  }
});

const never = async (): Promise<never> => assert.fail("nothing is read");

const stackOf = (name: string, shape: readonly number[]): GgufTensorToWrite => ({
  name,
  shape,
  type: 0,
  data: bytesOf(new Float32Array(shape.reduce((a, b) => a * b, 1))),
});
const wrong: Readonly<Record<string, readonly [tensors: GgufTensorToWrite[], want: RegExp, code: string]>> = {
  "a stack of more experts than there are": [
    [stackOf("blk.0.ffn_up_exps.weight", [5, 96, 64])],
    /"blk\.0\.ffn_up_exps\.weight" has 5 experts, llama\.expert_count says 4/,
    "BadGguf",
  ],
  "an expert beyond the last": [
    [stackOf("blk.0.ffn_up.4.weight", [96, 64])],
    /"blk\.0\.ffn_up\.4\.weight" belongs to no part/,
    "UnsupportedModel",
  ],
  "an expert twice, in a stack and alone": [
    [stackOf("blk.0.ffn_up_exps.weight", [4, 96, 64]), stackOf("blk.0.ffn_up.3.weight", [96, 64])],
    /"blk\.0\.ffn_up\.3\.weight" is a second "model\.layers\.0\.block_sparse_moe\.experts\.3\.w3\.weight"/,
    "BadGguf",
  ],
  "a model without its experts": [[], /has no tensor "model\.embed_tokens\.weight"/, "MissingTensor"],
};
for (const [sentence, [tensors, want, code]] of Object.entries(wrong))
  test(`${sentence} is refused by name`, async () => {
    const { metadata } = await mixtralGguf("stacked");
    const path = join(dir, "wrong.gguf");
    await writeFile(path, ggufBytes({ ...metadata, ...(await tokenizerMetadata()) }, tensors));
    await assert.rejects(importing(path, ["f32"]), refusal(code, want));
  });

test("two matrices in one stack are an expert's gate and up, in this order", async () => {
  const { metadata } = await mixtralGguf("stacked");
  const path = join(dir, "fused.gguf");
  const data = bytesOf(Float32Array.from({ length: 4 * 192 * 64 }, (_, i) => i / 65_536));
  await writeFile(path, ggufBytes(metadata, [{ name: "blk.1.ffn_gate_up_exps.weight", shape: [4, 192, 64], type: 0, data }]));
  const file = await openGguf(path);
  const checkpoint = ggufCheckpoint(file, ggufModel(file, 320));
  const up = await checkpoint.read("model.layers.1.block_sparse_moe.experts.2.w3.weight");
  assert.deepEqual([up.length, up[0]], [96 * 64, ((2 * 192 + 96) * 64) / 65_536]);
  await checkpoint.close();
});

const sizes: Readonly<Record<string, number>> = {
  ...{ block_count: 2, context_length: 512, embedding_length: 64, feed_forward_length: 32, expert_feed_forward_length: 32 },
  ...{ expert_count: 4, expert_used_count: 2, "attention.head_count": 4, "attention.head_count_kv": 2 },
  ...{ "attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 10_000 },
};

test("the config of every architecture with experts is a program of its family", () => {
  for (const [architecture, family] of Object.entries({ llama: "mixtral", qwen3moe: "qwen3-moe", olmoe: "olmoe" })) {
    const own = Object.entries(sizes).map(([key, value]) => [`${architecture}.${key}`, value] as const);
    const metadata = new Map<string, string | number>([["general.architecture", architecture], ...own]);
    const { config } = ggufModel({ path: "x.gguf", metadata, names: ["output.weight"], shape: () => [320, 64] }, 320);
    const read = familyOf(config);
    assert.equal(read.name, family);
    const [layer] = read.program(config).layers;
    assert.ok(layer?.kind === "moe");
    assert.deepEqual([layer.experts, layer.topK, layer.expert.weights[0]?.shape], [4, 2, [32, 64]]);
  }
});
