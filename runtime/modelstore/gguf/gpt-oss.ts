// GGUF architecture "gpt-oss": biases and sinks in attention, biased experts.
import { expertFields, type GgufArchitecture, mlpExpert, yarnOf } from "./architecture.ts";

export const gptOss: GgufArchitecture = {
  config(metadata) {
    const { num_experts, num_experts_per_tok } = expertFields(metadata);
    return {
      architectures: ["GptOssForCausalLM"],
      model_type: "gpt_oss",
      num_local_experts: num_experts,
      num_experts_per_tok,
      intermediate_size: metadata.number("expert_feed_forward_length", metadata.optional("feed_forward_length")),
      attention_bias: true,
      sliding_window: metadata.number("attention.sliding_window", 128),
      rope_parameters: { rope_type: "default", rope_theta: metadata.number("rope.freq_base", 150_000) }, // the family scales by default
      ...yarnOf(metadata, { rope_theta: metadata.number("rope.freq_base", 150_000), truncate: false }),
    };
  },
  parts: {
    post_attention_norm: "post_attention_layernorm",
    "attn_sinks.weight": "self_attn.sinks",
    ffn_gate_inp: "mlp.router",
  },
  expert: mlpExpert,
  interleaved: false,
  yarn: true,
};
