// The interface of a GGUF architecture: its metadata and tensors under Hugging Face's names.
import type { ModelMetadata } from "./metadata.ts";

export interface TensorFacts {
  /** The embedding table is the output head. */
  readonly tied: boolean;
  readonly vocab: number;
}

/** Key heads (transposed) and value heads that Hugging Face joins. */
export interface HeadsApart {
  readonly keys: string;
  readonly values: string;
  /** The joined name below `model.layers.N`. */
  readonly as: string;
}

export interface GgufArchitecture {
  /** Adds to the common fields, or replaces them. */
  config(metadata: ModelMetadata): Readonly<Record<string, unknown>>;
  /** GGUF's name -> Hugging Face's below `model.layers.N`; with `.weight` or `.bias` a complete name. */
  readonly parts: Readonly<Record<string, string>>;
  readonly headsApart?: HeadsApart;
  /** Files with YaRN are refused without it. */
  readonly yarn?: boolean;
  readonly latent?: boolean;
  /** Name below `model.layers.N`. */
  expert(matrix: ExpertMatrix, expert: number): string;
  /** Query and key rows interleave rotary pairs; Hugging Face separates the halves. */
  readonly interleaved: boolean;
}

export type ExpertMatrix = "gate" | "up" | "down";

export const topLevelNames: Readonly<Record<string, string>> = {
  "token_embd.weight": "model.embed_tokens.weight",
  "output_norm.weight": "model.norm.weight",
  "output.weight": "lm_head.weight",
};

export const commonParts: Readonly<Record<string, string>> = {
  attn_norm: "input_layernorm",
  attn_q: "self_attn.q_proj",
  attn_k: "self_attn.k_proj",
  attn_v: "self_attn.v_proj",
  attn_output: "self_attn.o_proj",
  ffn_norm: "post_attention_layernorm",
  ffn_gate: "mlp.gate_proj",
  ffn_up: "mlp.up_proj",
  ffn_down: "mlp.down_proj",
};

export const mlpExpert = (matrix: ExpertMatrix, expert: number): string => `mlp.experts.${expert}.${matrix}_proj`;

/** Empty without scaling. `more`: the family's additional fields. */
export function yarnOf(metadata: ModelMetadata, more: Readonly<Record<string, unknown>>): { readonly rope_scaling?: unknown } {
  if (metadata.values.get(metadata.key("rope.scaling.type")) !== "yarn") return {};
  return {
    rope_scaling: {
      rope_type: "yarn",
      factor: metadata.number("rope.scaling.factor"),
      original_max_position_embeddings: metadata.number("rope.scaling.original_context_length"),
      beta_fast: metadata.number("rope.scaling.yarn_beta_fast", 32),
      beta_slow: metadata.number("rope.scaling.yarn_beta_slow", 1),
      ...more,
    },
  };
}

/** A factor without a type means linear; `rope.scale_linear` is its old name. */
function refuseScaledRope(metadata: ModelMetadata, yarn: boolean): void {
  const type = metadata.values.get(metadata.key("rope.scaling.type")) ?? "linear";
  if (type === "yarn" && yarn) return;
  const key = ["rope.scaling.factor", "rope.scale_linear"].find((name) => metadata.has(name));
  const factor = key === undefined ? 1 : metadata.number(key);
  if (type === "none" || (type === "linear" && (factor === 0 || factor === 1))) return; // 0 means no scaling
  const [name, value] = type === "linear" && key !== undefined ? [key, factor] : ["rope.scaling.type", type];
  throw metadata.unsupported(name, value, "rotary positions must not be scaled");
}

export function decoderConfig(
  metadata: ModelMetadata,
  { tied, vocab }: TensorFacts,
  { yarn = false, latent = false }: Pick<GgufArchitecture, "yarn" | "latent">,
): Readonly<Record<string, unknown>> {
  refuseScaledRope(metadata, yarn);
  const hidden = metadata.number("embedding_length");
  const heads = metadata.number("attention.head_count");
  const headDim = metadata.number("attention.key_length", hidden / heads);
  const rotary = metadata.number("rope.dimension_count", headDim);
  if (rotary !== headDim && !latent)
    throw metadata.unsupported("rope.dimension_count", rotary, `partial rotary embedding (of ${headDim}) is not computed`);
  const token = (name: string): number | null => {
    const id = metadata.values.get(`tokenizer.ggml.${name}_token_id`);
    return typeof id === "number" || typeof id === "bigint" ? Number(id) : null;
  };
  return {
    hidden_size: hidden,
    num_hidden_layers: metadata.number("block_count"),
    num_attention_heads: heads,
    num_key_value_heads: metadata.number("attention.head_count_kv", heads),
    head_dim: headDim,
    hidden_act: "silu",
    max_position_embeddings: metadata.number("context_length"),
    rms_norm_eps: metadata.float("attention.layer_norm_rms_epsilon"),
    rope_theta: metadata.number("rope.freq_base", 10000),
    tie_word_embeddings: tied,
    vocab_size: vocab,
    bos_token_id: token("bos"),
    eos_token_id: token("eos"),
    pad_token_id: token("padding"),
    torch_dtype: "float32",
  };
}

export function expertFields(metadata: ModelMetadata): { readonly num_experts: number; readonly num_experts_per_tok: number } {
  return { num_experts: metadata.number("expert_count"), num_experts_per_tok: metadata.number("expert_used_count") };
}
