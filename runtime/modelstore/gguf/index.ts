// The importable GGUF architectures, by `general.architecture`. A new one is a row here, or a file of its own.
import { AppError } from "../../../crds/common.ts";
import { llamaArchitecture } from "../../models/llama.ts";
import { mixtralArchitecture } from "../../models/mixtral.ts";
import type { GgufFile } from "../../weights/gguf.ts";
import { inFolder } from "../model-config.ts";
import { decoderConfig, type ExpertMatrix, expertFields, type GgufArchitecture, mlpExpert, yarnOf } from "./architecture.ts";
import { deepseek2 } from "./deepseek2.ts";
import { ModelMetadata } from "./metadata.ts";

const mixtralMatrices: Readonly<Record<ExpertMatrix, string>> = { gate: "w1", up: "w3", down: "w2" };

/** Queries and keys are normalised. */
const normedHeads = {
  parts: { attn_q_norm: "self_attn.q_norm", attn_k_norm: "self_attn.k_norm", ffn_gate_inp: "mlp.gate" },
  expert: mlpExpert,
  interleaved: false,
};

const architectures: Readonly<Record<string, GgufArchitecture>> = {
  /** Dense Llamas, and Mixtral if there are experts. */
  llama: {
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
    expert: (matrix, expert) => `block_sparse_moe.experts.${expert}.${mixtralMatrices[matrix]}`,
    interleaved: true,
  },
  /** Norms of whole queries and keys, unnormalised gates. */
  olmoe: {
    config: (metadata) => ({
      architectures: ["OlmoeForCausalLM"],
      model_type: "olmoe",
      ...expertFields(metadata),
      intermediate_size: metadata.number("expert_feed_forward_length", metadata.number("feed_forward_length")),
      norm_topk_prob: false,
      attention_bias: false,
      clip_qkv: metadata.optional("attention.clamp_kqv") ?? null,
    }),
    ...normedHeads,
  },
  /** Norms per head, gates normalised to one. */
  qwen3moe: {
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
    ...normedHeads,
  },
  deepseek2,
  /** Biases and sinks in attention, biased experts. */
  "gpt-oss": {
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
  },
};

export interface GgufModel {
  readonly architecture: GgufArchitecture;
  readonly metadata: ModelMetadata;
  /** Equals the model's config.json on Hugging Face. */
  readonly config: Readonly<Record<string, unknown>>;
}

/** `tokens`: vocabulary size for files without an embedding table. */
export function ggufModel(file: Pick<GgufFile, "path" | "metadata" | "names" | "shape">, tokens: number): GgufModel {
  return inFolder(file.path, () => {
    const metadata = new ModelMetadata(file.metadata, file.path);
    const known = Object.hasOwn(architectures, metadata.architecture);
    const architecture = known ? architectures[metadata.architecture] : undefined;
    if (!architecture) {
      throw new AppError(
        `GGUF architecture "${metadata.architecture}" is not supported; supported are ${Object.keys(architectures).join(", ")}`,
        { code: "UnknownArchitecture" },
      );
    }
    const facts = { tied: !file.names.includes("output.weight"), vocab: file.shape("token_embd.weight")?.[0] ?? tokens };
    const config = { ...decoderConfig(metadata, facts, architecture), ...architecture.config(metadata) };
    return { architecture, metadata, config };
  });
}
