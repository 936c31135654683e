// GGUF architecture "deepseek2": DeepSeek V2 and V3 with latent attention; newer files separate key heads from value heads.
import { type GgufArchitecture, mlpExpert, yarnOf } from "./architecture.ts";
import type { ModelMetadata } from "./metadata.ts";

/** `expert_gating_func`: llama.cpp's number of the score function. */
const sigmoid = 2;

/** V3's gate uses sigmoid scores and a bias, V2's softmax. */
function gateOf(metadata: ModelMetadata): Readonly<Record<string, unknown>> {
  const versionThree = metadata.number("expert_gating_func", 1) === sigmoid;
  const groups = metadata.number("expert_group_count", 0) || 1; // older files have none, which llama.cpp treats as no groups
  const topGroups = metadata.number("expert_group_used_count", 0) || 1;
  const own = versionThree
    ? { architectures: ["DeepseekV3ForCausalLM"], model_type: "deepseek_v3", topk_method: "noaux_tc", scoring_func: "sigmoid" }
    : { architectures: ["DeepseekV2ForCausalLM"], model_type: "deepseek_v2", scoring_func: "softmax" };
  return {
    topk_method: groups > 1 ? "group_limited_greedy" : "greedy",
    ...own,
    n_group: groups,
    topk_group: topGroups,
    norm_topk_prob: metadata.flag("expert_weights_norm", false),
    routed_scaling_factor: metadata.float("expert_weights_scale", 1),
  };
}

export const deepseek2: GgufArchitecture = {
  config(metadata) {
    const turned = metadata.number("rope.dimension_count");
    const key = metadata.number("attention.key_length_mla", metadata.optional("attention.key_length"));
    // The file stores a tenth of it, and nothing where cosines and sines include the scale.
    const mscale = metadata.float("rope.scaling.yarn_log_multiplier", 0) * 10;
    return {
      ...gateOf(metadata),
      head_dim: null,
      num_key_value_heads: metadata.number("attention.head_count"),
      intermediate_size: metadata.number("feed_forward_length"),
      moe_intermediate_size: metadata.number("expert_feed_forward_length"),
      first_k_dense_replace: metadata.number("leading_dense_block_count", 0),
      n_routed_experts: metadata.number("expert_count"),
      num_experts_per_tok: metadata.number("expert_used_count"),
      n_shared_experts: metadata.number("expert_shared_count", 0),
      q_lora_rank: metadata.optional("attention.q_lora_rank") ?? null,
      kv_lora_rank: metadata.number("attention.kv_lora_rank"),
      qk_rope_head_dim: turned,
      qk_nope_head_dim: key - turned,
      v_head_dim: metadata.number("attention.value_length_mla", metadata.optional("attention.value_length")),
      rope_interleave: true,
      attention_bias: false,
      ...yarnOf(metadata, mscale === 0 ? {} : { mscale, mscale_all_dim: mscale }),
    };
  },
  parts: {
    attn_q_a: "self_attn.q_a_proj",
    attn_q_a_norm: "self_attn.q_a_layernorm",
    attn_q_b: "self_attn.q_b_proj",
    attn_kv_a_mqa: "self_attn.kv_a_proj_with_mqa",
    attn_kv_a_norm: "self_attn.kv_a_layernorm",
    attn_kv_b: "self_attn.kv_b_proj",
    ffn_gate_inp: "mlp.gate",
    "exp_probs_b.bias": "mlp.gate.e_score_correction_bias",
    ffn_gate_shexp: "mlp.shared_experts.gate_proj",
    ffn_up_shexp: "mlp.shared_experts.up_proj",
    ffn_down_shexp: "mlp.shared_experts.down_proj",
  },
  headsApart: { keys: "attn_k_b", values: "attn_v_b", as: "self_attn.kv_b_proj.weight" },
  expert: mlpExpert,
  interleaved: false,
  yarn: true,
  latent: true,
};
