// GGUF architecture "llama": dense Llamas, and Mixtral if there are experts.
import { llamaArchitecture } from "../../models/llama.ts";
import { mixtralArchitecture } from "../../models/mixtral.ts";
import type { ExpertMatrix, GgufArchitecture } from "./architecture.ts";
import { expertFields } from "./architecture.ts";

const matrices: Readonly<Record<ExpertMatrix, string>> = { gate: "w1", up: "w3", down: "w2" };

export const llama: GgufArchitecture = {
  config(metadata) {
    const ffn = { intermediate_size: metadata.number("feed_forward_length") };
    if (metadata.number("expert_count", 0) === 0) return { architectures: [llamaArchitecture], model_type: "llama", ...ffn };
    const { num_experts, num_experts_per_tok } = expertFields(metadata);
    return {
      architectures: [mixtralArchitecture],
      model_type: "mixtral",
      intermediate_size: ffn.intermediate_size,
      num_local_experts: num_experts,
      num_experts_per_tok,
      sliding_window: null,
    };
  },
  parts: { ffn_gate_inp: "block_sparse_moe.gate" },
  expert: (matrix, expert) => `block_sparse_moe.experts.${expert}.${matrices[matrix]}`,
  interleaved: true,
};
