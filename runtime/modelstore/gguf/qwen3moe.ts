// GGUF architecture "qwen3moe": per-head norms of queries and keys, gates normalised to one.
import { expertFields, type GgufArchitecture, mlpExpert } from "./architecture.ts";

export const qwen3moe: GgufArchitecture = {
  config: (metadata) => ({
    architectures: ["Qwen3MoeForCausalLM"],
    model_type: "qwen3_moe",
    ...expertFields(metadata),
    intermediate_size: metadata.number("feed_forward_length", metadata.number("expert_feed_forward_length")),
    moe_intermediate_size: metadata.number("expert_feed_forward_length"),
    norm_topk_prob: true,
    decoder_sparse_step: 1,
    mlp_only_layers: [],
    attention_bias: false,
    use_sliding_window: false,
    sliding_window: null,
  }),
  parts: { attn_q_norm: "self_attn.q_norm", attn_k_norm: "self_attn.k_norm", ffn_gate_inp: "mlp.gate" },
  expert: mlpExpert,
  interleaved: false,
};
