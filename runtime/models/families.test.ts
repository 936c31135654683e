// The families' config.json files as they are published: what becomes of them, and what is refused with the field's name.
import assert from "node:assert/strict";
import { test } from "node:test";
import { checkProgram } from "../kernels/check-program.ts";
import type { ModelProgram, Op, OpName, Segment } from "../kernels/segment.ts";
import { familyOf, programOf } from "./index.ts";

const opOf = <Name extends OpName>(segment: Segment | undefined, name: Name): Extract<Op, { op: Name }> => {
  const found = segment?.ops.find((op) => op.op === name);
  assert.ok(found, `${segment?.name} has no ${name}`);
  return found as Extract<Op, { op: Name }>;
};
const kinds = ({ layers }: ModelProgram) => layers.map((layer) => (layer.kind === "moe" ? layer.experts : 0));
const close = (got: number | undefined, want: number) =>
  assert.ok(Math.abs((got ?? Number.NaN) / want - 1) < 1e-6, `${got} is not ${want}`);

/** As Qwen3-30B-A3B has it. */
const qwen = {
  ...{ architectures: ["Qwen3MoeForCausalLM"], attention_bias: false, decoder_sparse_step: 1, head_dim: 128, hidden_act: "silu" },
  ...{ hidden_size: 2048, intermediate_size: 6144, max_position_embeddings: 40960, max_window_layers: 48, mlp_only_layers: [] },
  ...{ moe_intermediate_size: 768, norm_topk_prob: true, num_attention_heads: 32, num_experts: 128, num_experts_per_tok: 8 },
  ...{ num_hidden_layers: 4, num_key_value_heads: 4, rms_norm_eps: 1e-6, rope_scaling: null, rope_theta: 1e6, sliding_window: null },
  ...{ tie_word_embeddings: false, use_sliding_window: false, vocab_size: 151936 },
};

/** As OLMoE-1B-7B has it. */
const olmoe = {
  ...{ architectures: ["OlmoeForCausalLM"], attention_bias: false, clip_qkv: null, hidden_act: "silu", hidden_size: 2048 },
  ...{ intermediate_size: 1024, max_position_embeddings: 4096, norm_topk_prob: false, num_attention_heads: 16, num_experts: 64 },
  ...{ num_experts_per_tok: 8, num_hidden_layers: 2, num_key_value_heads: 16, rms_norm_eps: 1e-5, rope_scaling: null, rope_theta: 1e4 },
  ...{ tie_word_embeddings: false, vocab_size: 50304 },
};

/** As gpt-oss-20b has it. */
const oss = {
  ...{ architectures: ["GptOssForCausalLM"], attention_bias: true, experts_per_token: 4, head_dim: 64, hidden_act: "silu" },
  ...{ hidden_size: 2880, initial_context_length: 4096, intermediate_size: 2880, max_position_embeddings: 131072 },
  ...{ num_attention_heads: 64, num_experts_per_tok: 4, num_hidden_layers: 4, num_key_value_heads: 8, num_local_experts: 32 },
  layer_types: ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
  rope_scaling: {
    ...{ beta_fast: 32, beta_slow: 1, factor: 32, original_max_position_embeddings: 4096, rope_type: "yarn", truncate: false },
  },
  ...{ rms_norm_eps: 1e-5, rope_theta: 150000, sliding_window: 128, swiglu_limit: 7, tie_word_embeddings: false, vocab_size: 201088 },
};

/** As DeepSeek-V3 has it. */
const v3 = {
  ...{ architectures: ["DeepseekV3ForCausalLM"], attention_bias: false, ep_size: 1, first_k_dense_replace: 3, hidden_act: "silu" },
  ...{ hidden_size: 7168, intermediate_size: 18432, kv_lora_rank: 512, max_position_embeddings: 163840, moe_intermediate_size: 2048 },
  ...{ moe_layer_freq: 1, n_group: 8, n_routed_experts: 256, n_shared_experts: 1, norm_topk_prob: true, num_attention_heads: 128 },
  ...{ num_experts_per_tok: 8, num_hidden_layers: 5, num_key_value_heads: 128, num_nextn_predict_layers: 1, q_lora_rank: 1536 },
  ...{ qk_nope_head_dim: 128, qk_rope_head_dim: 64, rms_norm_eps: 1e-6, rope_theta: 10000, routed_scaling_factor: 2.5 },
  rope_scaling: {
    ...{ beta_fast: 32, beta_slow: 1, factor: 40, mscale: 1, mscale_all_dim: 1, original_max_position_embeddings: 4096, type: "yarn" },
  },
  ...{ scoring_func: "sigmoid", tie_word_embeddings: false, topk_group: 4, topk_method: "noaux_tc", v_head_dim: 128, vocab_size: 129280 },
};

/** As DeepSeek-V2-Lite has it. */
const v2 = {
  ...v3,
  ...{ architectures: ["DeepseekV2ForCausalLM"], first_k_dense_replace: 1, hidden_size: 2048, intermediate_size: 10944 },
  ...{ moe_intermediate_size: 1408, n_group: 1, n_routed_experts: 64, n_shared_experts: 2, norm_topk_prob: false },
  ...{ num_attention_heads: 16, num_experts_per_tok: 6, num_hidden_layers: 3, num_key_value_heads: 16, q_lora_rank: null },
  rope_scaling: { ...v3.rope_scaling, mscale: 707 / 1000, mscale_all_dim: 707 / 1000 },
  ...{ routed_scaling_factor: 1, scoring_func: "softmax", topk_group: 1, topk_method: "greedy", vocab_size: 102400 },
};

test("Qwen3-MoE: heads are normed, gates renormalised, and single layers have no experts", () => {
  const program = programOf(qwen);
  checkProgram(program);
  const block = program.layers[0]?.block;
  assert.deepEqual(kinds(program), [128, 128, 128, 128]);
  assert.deepEqual([program.headDim, opOf(block, "route").normalize, opOf(block, "route").topK], [128, true, 8]);
  const norms = block?.ops.filter((op) => op.op === "rmsNorm" && op.heads !== undefined) ?? [];
  assert.deepEqual(
    norms.map((op) => op.op === "rmsNorm" && op.heads),
    [32, 4],
  );
  assert.deepEqual(kinds(programOf({ ...qwen, mlp_only_layers: [1] })), [128, 0, 128, 128]);
  assert.deepEqual(kinds(programOf({ ...qwen, decoder_sparse_step: 2 })), [0, 128, 0, 128]);
  assert.deepEqual(kinds(programOf({ ...qwen, num_experts: undefined, num_local_experts: 16 })), [16, 16, 16, 16]);
});

test("OLMoE: rows are normed whole, and gates keep the sum that softmax gave them", () => {
  const program = programOf(olmoe);
  checkProgram(program);
  const block = program.layers[0]?.block;
  assert.equal(opOf(block, "route").normalize, false);
  assert.deepEqual(block?.weights.find(({ name }) => name.endsWith("q_norm.weight"))?.shape, [2048]);
});

test("gpt-oss: windows alternate, heads have sinks, experts have biases", () => {
  const program = programOf(oss);
  checkProgram(program);
  const windows = (of: ModelProgram) => of.layers.map(({ block }) => opOf(block, "attention").window);
  assert.deepEqual(windows(program), [128, 0, 128, 0]);
  assert.deepEqual(windows(programOf({ ...oss, layer_types: undefined })), [128, 0, 128, 0]);
  const { sinks, rope } = opOf(program.layers[0]?.block, "attention");
  assert.equal(sinks, "model.layers.0.self_attn.sinks");
  close(rope.factor, 0.1 * Math.log(32) + 1);
  close(rope.frequencies[0], 1);
  close(rope.frequencies[31], 1 / (32 * 150000 ** (31 / 32)));
  const [layer] = program.layers;
  assert.ok(layer?.kind === "moe");
  assert.deepEqual([opOf(layer.expert, "clampedSwiglu").alpha, opOf(layer.expert, "clampedSwiglu").limit], [1.702, 7]);
  assert.equal(familyOf(oss).expertTensors(2, 5).b3, "model.layers.2.mlp.experts.5.up_proj.bias");
  assert.deepEqual(programOf({ ...oss, rope_scaling: undefined }).layers[0]?.block.ops, program.layers[0]?.block.ops, "YaRN by default");
});

test("DeepSeek-V3: the first layers are dense, keys and values differ in size, scores are sharpened, groups come first", () => {
  const program = programOf(v3);
  checkProgram(program);
  assert.deepEqual(kinds(program), [0, 0, 0, 256, 256]);
  assert.deepEqual([program.kvHeads, program.headDim, program.valueDim], [128, 192, 128]);
  const moe = program.layers[3];
  assert.ok(moe?.kind === "moe" && moe.shared === 1);
  const { rope, scale } = opOf(moe.block, "attention");
  assert.deepEqual([rope.from, rope.interleaved, rope.frequencies.length, rope.factor], [128, true, 32, 1]);
  close(scale, (0.1 * Math.log(40) + 1) ** 2 / Math.sqrt(192));
  const gate = opOf(moe.block, "groupRoute");
  assert.deepEqual(
    [gate.sigmoid, gate.bias, gate.groups, gate.groupsKept, gate.groupTop, gate.normalize, gate.scale],
    [true, "model.layers.3.mlp.gate.e_score_correction_bias", 8, 4, 2, true, 2.5],
  );
});

test("DeepSeek-V3's layers that predict further tokens are needless, and others are not", () => {
  assert.deepEqual(familyOf(v3).needless?.(v3), ["model.layers.5."]);
  assert.deepEqual(familyOf(v3).needless?.({ ...v3, num_nextn_predict_layers: undefined }), []);
});

test("DeepSeek-V2: queries without a latent, a greedy or limited gate by softmax, two shared experts as one FFN", () => {
  const program = programOf(v2);
  checkProgram(program);
  const [, moe] = program.layers;
  assert.ok(moe?.kind === "moe" && moe.shared === 2);
  const gate = opOf(moe.block, "groupRoute");
  assert.deepEqual([gate.sigmoid, gate.bias, gate.groups, gate.normalize, gate.scale], [false, undefined, 1, false, 1]);
  const shape = (name: string) => moe.block.weights.find((weight) => weight.name.endsWith(name))?.shape;
  assert.deepEqual(
    [shape("q_proj.weight"), shape("shared_experts.gate_proj.weight")],
    [
      [16 * 192, 2048],
      [2816, 2048],
    ],
  );
  const limited = programOf({ ...v2, topk_method: "group_limited_greedy", n_group: 8, topk_group: 3 }).layers[1];
  const { groups, groupsKept, groupTop } = opOf(limited?.block, "groupRoute");
  assert.deepEqual([groups, groupsKept, groupTop], [8, 3, 1]);
});

test("what a family would compute wrongly is refused with field, found and supported values", () => {
  const cases: Record<string, { config: object; says: RegExp }> = {
    "a sliding window of Qwen": { config: { ...qwen, use_sliding_window: true }, says: /use_sliding_window is true, supported: false/ },
    "biases of Qwen": { config: { ...qwen, attention_bias: true }, says: /attention_bias is true/ },
    "more experts a token than there are": {
      config: { ...qwen, num_experts_per_tok: 60, num_experts: 8 },
      says: /num_experts_per_tok is 60/,
    },
    "another scaling": { config: { ...qwen, rope_scaling: { rope_type: "llama3" } }, says: /rope_scaling\.rope_type is "llama3".*"yarn"/ },
    "two original contexts": {
      config: { ...oss, original_max_position_embeddings: 8192 },
      says: /original_max_position_embeddings is 8192, supported: that of the rotation \(4096\)/,
    },
    "clipped projections": { config: { ...olmoe, clip_qkv: 8 }, says: /clip_qkv is 8, supported: null/ },
    "a head size that OLMoE's norms do not have": { config: { ...olmoe, head_dim: 64 }, says: /head_dim is 64/ },
    "another kind of layer": {
      config: { ...oss, layer_types: ["full_attention", "full_attention", "full_attention", "linear_attention"] },
      says: /layer_types\.3 is "linear_attention", supported: "sliding_attention" or "full_attention"/,
    },
    "too few kinds of layers": { config: { ...oss, layer_types: ["full_attention"] }, says: /layer_types is 1, supported: as many/ },
    "sliding layers without a window": { config: { ...oss, sliding_window: null }, says: /sliding_window is null/ },
    "another choice": { config: { ...v3, topk_method: "greedy" }, says: /topk_method is "greedy", supported: "noaux_tc"/ },
    "another score": { config: { ...v2, scoring_func: "sigmoid" }, says: /scoring_func is "sigmoid", supported: "softmax"/ },
    "V2 with renormalised gates": { config: { ...v2, norm_topk_prob: true }, says: /norm_topk_prob is true, supported: false/ },
    "groups that do not divide the experts": {
      config: { ...v3, n_group: 7 },
      says: /n_group is 7, supported: a divisor of n_routed_experts/,
    },
    "too few groups for the experts": { config: { ...v3, n_group: 64, topk_group: 1 }, says: /topk_group is 1, supported: groups enough/ },
    "experts in every other layer": { config: { ...v2, moe_layer_freq: 2 }, says: /moe_layer_freq is 2, supported: 1/ },
    "grouped keys": { config: { ...v3, num_key_value_heads: 8 }, says: /num_key_value_heads is 8, supported: 128/ },
  };
  for (const [name, { config, says }] of Object.entries(cases)) {
    assert.throws(
      () => programOf(config),
      (error: unknown) => error instanceof Error && Reflect.get(error, "code") === "UnsupportedModel" && says.test(error.message),
      name,
    );
  }
});
