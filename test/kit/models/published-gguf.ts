// Small models in the layouts in which people publish them as GGUF: names, stacks, row orders and mixes of types as llama.cpp's converters
// and quantizer write them, with random weights; and the same weights as a Hugging Face checkpoint in f32.
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { ggmlFormats, isGgmlForm } from "../../../runtime/kernels/ggml/index.ts";
import { gaussian } from "../../../runtime/kernels/random.ts";
import { bytesOf } from "../../../runtime/weights/floats.ts";
import { writeSafetensors } from "../../../runtime/weights/safetensors-writer.ts";
import { type StoredForm, widenStored } from "../../../runtime/weights/stored.ts";
import { type GgufTensorToWrite, ggufBytes } from "./gguf-writer.ts";
import { tokenizerMetadata } from "./moe-gguf.ts";
import { ends, layersOf, nothing, type Published, pairs, prefixed, stack, stored, type Tensor, vocab, whole } from "./published-parts.ts";

/** Mixtral as Q4_K_M: down projections of half of the layers, values and head in finer types. */
function mixtral(): Published {
  const [hidden, ffn, experts, heads, kv] = [256, 256, 4, 4, 2];
  const metadata = prefixed("llama", {
    ...{
      block_count: 2,
      context_length: 512,
      embedding_length: hidden,
      feed_forward_length: ffn,
      expert_count: experts,
      vocab_size: vocab,
    },
    ...{ expert_used_count: 2, "attention.head_count": heads, "attention.head_count_kv": kv, "rope.dimension_count": hidden / heads },
    ...{ "attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 1_000_000 },
  });
  const config = {
    ...{ architectures: ["MixtralForCausalLM"], model_type: "mixtral", hidden_size: hidden, intermediate_size: ffn, vocab_size: vocab },
    ...{ num_hidden_layers: 2, num_attention_heads: heads, num_key_value_heads: kv, num_local_experts: experts, num_experts_per_tok: 2 },
    ...{ max_position_embeddings: 512, rms_norm_eps: 1e-5, rope_theta: 1e6, sliding_window: null, tie_word_embeddings: false },
  };
  const kvRows = (hidden / heads) * kv;
  const parts = layersOf(2, (layer, blk, hf) => {
    const at = `${hf}.block_sparse_moe`;
    const matrix = (w: string) => (e: number) => `${at}.experts.${e}.${w}.weight`;
    return [
      whole(`${blk}.attn_norm.weight`, `${hf}.input_layernorm.weight`, [hidden]),
      pairs(`${blk}.attn_q.weight`, `${hf}.self_attn.q_proj.weight`, [hidden, hidden], heads, "q4_K"),
      pairs(`${blk}.attn_k.weight`, `${hf}.self_attn.k_proj.weight`, [kvRows, hidden], kv, "q8_0"),
      whole(`${blk}.attn_v.weight`, `${hf}.self_attn.v_proj.weight`, [kvRows, hidden], "q8_0"),
      whole(`${blk}.attn_output.weight`, `${hf}.self_attn.o_proj.weight`, [hidden, hidden], "q5_K"),
      whole(`${blk}.ffn_norm.weight`, `${hf}.post_attention_layernorm.weight`, [hidden]),
      whole(`${blk}.ffn_gate_inp.weight`, `${at}.gate.weight`, [experts, hidden]),
      stack(`${blk}.ffn_gate_exps.weight`, matrix("w1"), [experts, ffn, hidden], "q4_K"),
      stack(`${blk}.ffn_up_exps.weight`, matrix("w3"), [experts, ffn, hidden], "q4_K"),
      stack(`${blk}.ffn_down_exps.weight`, matrix("w2"), [experts, hidden, ffn], layer === 0 ? "q6_K" : "q4_K"),
    ];
  });
  return { metadata, config, parts: [...ends(hidden, "q4_K", "q6_K"), ...parts] };
}

/** Qwen3-MoE as Q4_K_M, heads wider than the model's rows; OLMoE as Q5_K_M: norms of whole rows, no size of heads. No rotary rows move. */
function normed(architecture: "qwen3moe" | "olmoe"): Published {
  const qwen = architecture === "qwen3moe";
  const [hidden, ffn, experts, heads, kv, head] = [256, 256, 4, 4, qwen ? 2 : 4, qwen ? 128 : 64];
  const metadata = prefixed(architecture, {
    ...{ block_count: 2, context_length: 512, embedding_length: hidden, feed_forward_length: qwen ? 3 * ffn : ffn },
    ...{ expert_count: experts, expert_used_count: 3, "attention.head_count": heads, "attention.head_count_kv": kv },
    ...(qwen ? { "attention.key_length": head, "attention.value_length": head, expert_feed_forward_length: ffn } : {}),
    ...{ "attention.layer_norm_rms_epsilon": qwen ? 1e-6 : 1e-5, "rope.freq_base": qwen ? 1_000_000 : 10_000 },
  });
  const config = {
    ...{ architectures: [qwen ? "Qwen3MoeForCausalLM" : "OlmoeForCausalLM"], model_type: qwen ? "qwen3_moe" : "olmoe" },
    ...{ hidden_size: hidden, intermediate_size: qwen ? 3 * ffn : ffn, vocab_size: vocab, num_hidden_layers: 2, num_experts: experts },
    ...{ num_attention_heads: heads, num_key_value_heads: kv, num_experts_per_tok: 3, norm_topk_prob: qwen, max_position_embeddings: 512 },
    ...{ rms_norm_eps: qwen ? 1e-6 : 1e-5, rope_theta: qwen ? 1e6 : 1e4, hidden_act: "silu", tie_word_embeddings: false },
    ...(qwen ? { head_dim: head, moe_intermediate_size: ffn, decoder_sparse_step: 1, mlp_only_layers: [] } : { clip_qkv: null }),
  };
  const coarse = qwen ? "q4_K" : "q5_K";
  const parts = layersOf(2, (layer, blk, hf) => {
    const at = `${hf}.self_attn`;
    const matrix = (name: string) => (e: number) => `${hf}.mlp.experts.${e}.${name}_proj.weight`;
    const better = layer === 0 ? "q6_K" : coarse;
    return [
      whole(`${blk}.attn_norm.weight`, `${hf}.input_layernorm.weight`, [hidden]),
      whole(`${blk}.attn_q.weight`, `${at}.q_proj.weight`, [heads * head, hidden], coarse),
      whole(`${blk}.attn_q_norm.weight`, `${at}.q_norm.weight`, [qwen ? head : heads * head]),
      whole(`${blk}.attn_k.weight`, `${at}.k_proj.weight`, [kv * head, hidden], coarse),
      whole(`${blk}.attn_k_norm.weight`, `${at}.k_norm.weight`, [qwen ? head : kv * head]),
      whole(`${blk}.attn_v.weight`, `${at}.v_proj.weight`, [kv * head, hidden], better),
      whole(`${blk}.attn_output.weight`, `${at}.o_proj.weight`, [hidden, heads * head], coarse),
      whole(`${blk}.ffn_norm.weight`, `${hf}.post_attention_layernorm.weight`, [hidden]),
      whole(`${blk}.ffn_gate_inp.weight`, `${hf}.mlp.gate.weight`, [experts, hidden]),
      stack(`${blk}.ffn_gate_exps.weight`, matrix("gate"), [experts, ffn, hidden], coarse),
      stack(`${blk}.ffn_up_exps.weight`, matrix("up"), [experts, ffn, hidden], coarse),
      stack(`${blk}.ffn_down_exps.weight`, matrix("down"), [experts, hidden, ffn], better),
    ];
  });
  return { metadata, config, parts: [...ends(hidden, coarse, "q6_K"), ...parts] };
}

/** gpt-oss as it is published: experts in MXFP4, matrices beside them in q8_0, biases in f32. */
function gptOss(): Published {
  const [hidden, ffn, experts, heads, kv, head] = [96, 64, 4, 4, 2, 16];
  const metadata = prefixed("gpt-oss", {
    ...{ block_count: 2, context_length: 512, embedding_length: hidden, feed_forward_length: ffn, expert_feed_forward_length: ffn },
    ...{ expert_count: experts, expert_used_count: 2, "attention.head_count": heads, "attention.head_count_kv": kv },
    ...{ "attention.key_length": head, "attention.value_length": head, "attention.sliding_window": 24, "rope.freq_base": 150_000 },
    ...{ "attention.layer_norm_rms_epsilon": 1e-5, "rope.scaling.type": "yarn", "rope.scaling.factor": 4 },
    "rope.scaling.original_context_length": 128,
  });
  const config = {
    ...{ architectures: ["GptOssForCausalLM"], model_type: "gpt_oss", hidden_size: hidden, intermediate_size: ffn, vocab_size: vocab },
    ...{ num_hidden_layers: 2, num_attention_heads: heads, num_key_value_heads: kv, head_dim: head, num_local_experts: experts },
    ...{ num_experts_per_tok: 2, max_position_embeddings: 512, rms_norm_eps: 1e-5, rope_theta: 150_000, sliding_window: 24 },
    ...{ attention_bias: true, layer_types: ["sliding_attention", "full_attention"], swiglu_limit: 7, tie_word_embeddings: false },
    rope_scaling: {
      ...{ rope_type: "yarn", factor: 4, beta_fast: 32, beta_slow: 1, truncate: false, original_max_position_embeddings: 128 },
    },
  };
  const parts = layersOf(2, (_, blk, hf) => {
    const biased = (name: string, as: string, shape: readonly [number, number]) => [
      whole(`${blk}.${name}.weight`, `${hf}.${as}.weight`, shape, name === "ffn_gate_inp" ? "f32" : "q8_0"),
      whole(`${blk}.${name}.bias`, `${hf}.${as}.bias`, [shape[0]]),
    ];
    const experted = (name: string, [rows, columns]: readonly [number, number]) => {
      const as = (kind: string) => (e: number) => `${hf}.mlp.experts.${e}.${name}_proj.${kind}`;
      return [
        stack(`${blk}.ffn_${name}_exps.weight`, as("weight"), [experts, rows, columns], "mxfp4"),
        stack(`${blk}.ffn_${name}_exps.bias`, as("bias"), [experts, rows]),
      ];
    };
    return [
      whole(`${blk}.attn_norm.weight`, `${hf}.input_layernorm.weight`, [hidden]),
      ...biased("attn_q", "self_attn.q_proj", [heads * head, hidden]),
      ...biased("attn_k", "self_attn.k_proj", [kv * head, hidden]),
      ...biased("attn_v", "self_attn.v_proj", [kv * head, hidden]),
      ...biased("attn_output", "self_attn.o_proj", [hidden, heads * head]),
      whole(`${blk}.attn_sinks.weight`, `${hf}.self_attn.sinks`, [heads]),
      whole(`${blk}.post_attention_norm.weight`, `${hf}.post_attention_layernorm.weight`, [hidden]),
      ...biased("ffn_gate_inp", "mlp.router", [experts, hidden]),
      ...experted("gate", [ffn, hidden]),
      ...experted("up", [ffn, hidden]),
      ...experted("down", [hidden, ffn]),
    ];
  });
  return { metadata, config, parts: [...ends(hidden, "q8_0", "q8_0"), ...parts] };
}

const mla = { hidden: 256, ffn: 96, dense: 256, experts: 8, heads: 4, lora: 128, queries: 64, still: 32, turned: 16, value: 32 };

/** `heads`: those of the latent's keys and values apart, as files since 2025 have them. */
function deepseek(version: 2 | 3, heads: "apart" | "whole"): Published {
  const { hidden, ffn, dense, experts, lora, queries, still, turned, value } = mla;
  const three = version === 3;
  const metadata = prefixed("deepseek2", {
    ...{ block_count: 2, context_length: 512, embedding_length: hidden, feed_forward_length: dense, expert_feed_forward_length: ffn },
    ...{ leading_dense_block_count: 1, vocab_size: vocab, expert_count: experts, expert_used_count: 3, expert_shared_count: three ? 1 : 2 },
    ...{ expert_weights_scale: three ? 2.5 : 1, expert_gating_func: three ? 2 : 1, "attention.head_count": mla.heads },
    ...(three ? { expert_weights_norm: true, expert_group_count: 4, expert_group_used_count: 2, "attention.q_lora_rank": queries } : {}),
    ...(heads === "apart"
      ? {
          ...{ "attention.head_count_kv": 1, "attention.key_length": lora + turned, "attention.value_length": lora },
          ...{ "attention.key_length_mla": still + turned, "attention.value_length_mla": value },
        }
      : { "attention.head_count_kv": mla.heads, "attention.key_length": still + turned, "attention.value_length": value }),
    ...{ "attention.kv_lora_rank": lora, "rope.dimension_count": turned, "rope.freq_base": 10_000 },
    ...{ "attention.layer_norm_rms_epsilon": 1e-6, "rope.scaling.type": "yarn", "rope.scaling.factor": 4 },
    ...{ "rope.scaling.original_context_length": 128, "rope.scaling.yarn_log_multiplier": three ? 0.1 : 0.0707 },
  });
  const mscale = three ? 1 : 707 / 1000;
  const config = {
    ...{ architectures: [`DeepseekV${version}ForCausalLM`], model_type: `deepseek_v${version}`, hidden_size: hidden, vocab_size: vocab },
    ...{ intermediate_size: dense, moe_intermediate_size: ffn, num_hidden_layers: 2, num_attention_heads: mla.heads, moe_layer_freq: 1 },
    ...{ num_key_value_heads: mla.heads, n_routed_experts: experts, num_experts_per_tok: 3, n_shared_experts: three ? 1 : 2 },
    ...{ first_k_dense_replace: 1, q_lora_rank: three ? queries : null, kv_lora_rank: lora, qk_nope_head_dim: still },
    ...{ qk_rope_head_dim: turned, v_head_dim: value, norm_topk_prob: three, routed_scaling_factor: three ? 2.5 : 1, rope_theta: 10_000 },
    ...(three
      ? { topk_method: "noaux_tc", scoring_func: "sigmoid", n_group: 4, topk_group: 2 }
      : { topk_method: "greedy", scoring_func: "softmax", n_group: 1, topk_group: 1 }),
    ...{ max_position_embeddings: 512, rms_norm_eps: 1e-6, tie_word_embeddings: false, attention_bias: false },
    rope_scaling: {
      ...{ type: "yarn", factor: 4, beta_fast: 32, beta_slow: 1, mscale, mscale_all_dim: mscale, original_max_position_embeddings: 128 },
    },
  };
  const parts = layersOf(2, (layer, blk, hf) => {
    const at = `${hf}.self_attn`;
    const wide = mla.heads * (still + turned);
    const query = three
      ? [
          whole(`${blk}.attn_q_a.weight`, `${at}.q_a_proj.weight`, [queries, hidden], "q4_K"),
          whole(`${blk}.attn_q_a_norm.weight`, `${at}.q_a_layernorm.weight`, [queries]),
          whole(`${blk}.attn_q_b.weight`, `${at}.q_b_proj.weight`, [wide, queries], "q8_0"),
        ]
      : [whole(`${blk}.attn_q.weight`, `${at}.q_proj.weight`, [wide, hidden], "q4_K")];
    const latent =
      heads === "apart"
        ? [
            { name: `${blk}.attn_k_b.weight`, shape: [mla.heads, lora, still], form: "q8_0" as const, hf: nothing },
            { name: `${blk}.attn_v_b.weight`, shape: [mla.heads, value, lora], form: "q8_0" as const, hf: nothing },
          ]
        : [whole(`${blk}.attn_kv_b.weight`, `${at}.kv_b_proj.weight`, [mla.heads * (still + value), lora], "q8_0")];
    const gated = (from: string, to: string, width: number, down: StoredForm) => [
      whole(`${blk}.ffn_gate${from}.weight`, `${hf}.mlp.${to}gate_proj.weight`, [width, hidden], "q4_K"),
      whole(`${blk}.ffn_up${from}.weight`, `${hf}.mlp.${to}up_proj.weight`, [width, hidden], "q4_K"),
      whole(`${blk}.ffn_down${from}.weight`, `${hf}.mlp.${to}down_proj.weight`, [hidden, width], down),
    ];
    const matrix = (name: string) => (e: number) => `${hf}.mlp.experts.${e}.${name}_proj.weight`;
    const routed = [
      whole(`${blk}.ffn_gate_inp.weight`, `${hf}.mlp.gate.weight`, [experts, hidden]),
      ...(three ? [whole(`${blk}.exp_probs_b.bias`, `${hf}.mlp.gate.e_score_correction_bias`, [experts])] : []),
      stack(`${blk}.ffn_gate_exps.weight`, matrix("gate"), [experts, ffn, hidden], "q4_K"),
      stack(`${blk}.ffn_up_exps.weight`, matrix("up"), [experts, ffn, hidden], "q4_K"),
      stack(`${blk}.ffn_down_exps.weight`, matrix("down"), [experts, hidden, ffn], "q5_0"), // rows of no 256 values
      ...gated("_shexp", "shared_experts.", ffn * (three ? 1 : 2), "q8_0"),
    ];
    return [
      whole(`${blk}.attn_norm.weight`, `${hf}.input_layernorm.weight`, [hidden]),
      ...query,
      whole(`${blk}.attn_kv_a_mqa.weight`, `${at}.kv_a_proj_with_mqa.weight`, [lora + turned, hidden], "q8_0"),
      whole(`${blk}.attn_kv_a_norm.weight`, `${at}.kv_a_layernorm.weight`, [lora]),
      ...latent,
      whole(`${blk}.attn_output.weight`, `${at}.o_proj.weight`, [hidden, mla.heads * value], "q8_0"),
      whole(`${blk}.ffn_norm.weight`, `${hf}.post_attention_layernorm.weight`, [hidden]),
      ...(layer === 0 ? gated("", "", dense, "q6_K") : routed),
    ];
  });
  const whole2 = { metadata, config, parts: [...ends(hidden, "q4_K", "q6_K"), ...parts] };
  return heads === "apart" ? { ...whole2, joined: latentHeads } : whole2;
}

/** Of each head, the rows of its keys and then those of its values. */
function latentHeads(values: ReadonlyMap<string, Float32Array>): Readonly<Record<string, Tensor>> {
  const { heads, lora, still, value } = mla;
  const out: Record<string, Tensor> = {};
  for (const layer of [0, 1]) {
    const [k, v] = [values.get(`blk.${layer}.attn_k_b.weight`)!, values.get(`blk.${layer}.attn_v_b.weight`)!];
    const whole: number[] = [];
    for (let head = 0; head < heads; head++) {
      for (let row = 0; row < still; row++) for (let c = 0; c < lora; c++) whole.push(k[(head * lora + c) * still + row]!);
      whole.push(...v.subarray(head * value * lora, (head + 1) * value * lora));
    }
    out[`model.layers.${layer}.self_attn.kv_b_proj.weight`] = {
      shape: [heads * (still + value), lora],
      values: Float32Array.from(whole),
    };
  }
  return out;
}

export const published: Readonly<Record<string, () => Published>> = {
  "Mixtral, Q4_K_M": mixtral,
  "Qwen3-MoE, Q4_K_M": () => normed("qwen3moe"),
  "OLMoE, Q5_K_M": () => normed("olmoe"),
  "gpt-oss, MXFP4": gptOss,
  "DeepSeek-V2-Lite, Q4_K_M, with whole latents": () => deepseek(2, "whole"),
  "DeepSeek-V3, Q4_K_M, with heads of latents apart": () => deepseek(3, "apart"),
};

/** The file, and the tensors that it means. */
export async function publishedFile({
  metadata,
  parts,
  joined,
}: Published): Promise<{ gguf: Buffer; hf: Readonly<Record<string, Tensor>> }> {
  const tensors: GgufTensorToWrite[] = [];
  const values = new Map<string, Float32Array>();
  const hf: Record<string, Tensor> = {};
  for (const [seed, { name, shape, form, hf: toHf }] of parts.entries()) {
    const count = shape.reduce((a, b) => a * b, 1);
    const norm = /norm\.weight$/.test(name);
    const data = norm ? bytesOf(gaussian(seed, count, 0.1).map((value) => 1 + value)) : stored(form, count, seed);
    tensors.push({ name, shape, type: isGgmlForm(form) ? ggmlFormats[form].type : 0, data });
    values.set(name, widenStored(form, data));
    Object.assign(hf, toHf(values.get(name)!));
  }
  Object.assign(hf, joined?.(values));
  return { gguf: ggufBytes({ ...metadata, ...(await tokenizerMetadata()) }, tensors), hf };
}

/** Writes both forms of a model into a folder: `model.gguf`, and the Hugging Face folder `hf`, without a tokenizer. */
export async function writePublished(model: Published, folder: string): Promise<void> {
  const { gguf, hf } = await publishedFile(model);
  await mkdir(join(folder, "hf"), { recursive: true });
  await writeFile(join(folder, "model.gguf"), gguf);
  await writeFile(join(folder, "hf/config.json"), JSON.stringify(model.config));
  await writeSafetensors(
    join(folder, "hf/model.safetensors"),
    Object.entries(hf).map(([name, { shape, values }]) => ({ name, dtype: "F32", shape, read: async () => bytesOf(values) })),
  );
}
