// GGUF architecture "olmoe": norms of whole queries and keys, unnormalised gates.
import { expertFields, type GgufArchitecture, mlpExpert } from "./architecture.ts";

export const olmoe: GgufArchitecture = {
  config: (metadata) => ({
    architectures: ["OlmoeForCausalLM"],
    model_type: "olmoe",
    ...expertFields(metadata),
    intermediate_size: metadata.number("expert_feed_forward_length", metadata.number("feed_forward_length")),
    norm_topk_prob: false,
    attention_bias: false,
    clip_qkv: metadata.optional("attention.clamp_kqv") ?? null,
  }),
  parts: { attn_q_norm: "self_attn.q_norm", attn_k_norm: "self_attn.k_norm", ffn_gate_inp: "mlp.gate" },
  expert: mlpExpert,
  interleaved: false,
};
