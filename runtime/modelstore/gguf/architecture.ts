// The declaration of a GGUF architecture: its metadata as Hugging Face's config.json and its tensors in Hugging Face's names; and what all
// decoders share of both. Pure. Not here: any one architecture (their own files), the registry (index.ts).
import type { ModelMetadata } from "./metadata.ts";

/** Facts of the file's tensors that a config.json tells too. */
export interface TensorFacts {
  /** No head of its own: the embedding table is used. */
  readonly tied: boolean;
  readonly vocab: number;
}

/** Tensors that are one in Hugging Face's layout: heads of keys, each transposed, and heads of values. */
export interface HeadsApart {
  readonly keys: string;
  readonly values: string;
  /** The whole's name below `model.layers.N`. */
  readonly as: string;
}

export interface GgufArchitecture {
  /** The fields of config.json besides, or in place of, those that all decoders have. */
  config(metadata: ModelMetadata): Readonly<Record<string, unknown>>;
  /** Parts of a layer besides those that all decoders have: GGUF's name -> Hugging Face's below `model.layers.N`. A name with its ending,
   *  `.weight` or `.bias`, stands for the whole name there. */
  readonly parts: Readonly<Record<string, string>>;
  readonly headsApart?: HeadsApart;
  /** Scaling of rotary positions by YaRN is read; others refuse it. */
  readonly yarn?: boolean;
  /** The heads of attention are of several sizes, which `config` says. */
  readonly latent?: boolean;
  /** Name of an expert's matrix below `model.layers.N`. */
  expert(matrix: ExpertMatrix, expert: number): string;
  /** True where query and key rows have each head's rotary pairs interleaved; Hugging Face wants the two halves apart. */
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

/** The names of a family that calls its experts as a dense layer's matrices. */
export const mlpExpert = (matrix: ExpertMatrix, expert: number): string => `mlp.experts.${expert}.${matrix}_proj`;

/** YaRN as config.json says it; nothing where positions are not scaled. `more`: what the family adds to it. */
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

/** llama.cpp scales positions linearly where a file gives a factor and no type; `rope.scale_linear` is the old name of that factor. */
function refuseScaledRope(metadata: ModelMetadata, yarn: boolean): void {
  const type = metadata.values.get(metadata.key("rope.scaling.type")) ?? "linear";
  if (type === "yarn" && yarn) return;
  const key = ["rope.scaling.factor", "rope.scale_linear"].find((name) => metadata.has(name));
  const factor = key === undefined ? 1 : metadata.number(key);
  if (type === "none" || (type === "linear" && (factor === 0 || factor === 1))) return; // 0 stands for no scaling too
  const [name, value] = type === "linear" && key !== undefined ? [key, factor] : ["rope.scaling.type", type];
  throw metadata.unsupported(name, value, "rotary positions must not be scaled");
}

/** config.json of a decoder with plain rotary attention. */
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

/** The experts' numbers, as most families call them. */
export function expertFields(metadata: ModelMetadata): { readonly num_experts: number; readonly num_experts_per_tok: number } {
  return { num_experts: metadata.number("expert_count"), num_experts_per_tok: metadata.number("expert_used_count") };
}
