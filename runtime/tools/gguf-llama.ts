// GGUF of architecture "llama" as Hugging Face's LlamaForCausalLM: config, tensor names, rotary row order. Pure.
import { AppError } from "../../crds/common.ts";
import { llamaArchitecture } from "../models/llama.ts";
import type { GgufValue } from "../weights/gguf-header.ts";

type Metadata = ReadonlyMap<string, GgufValue>;

function number(metadata: Metadata, key: string, fallback?: number): number {
  const value = metadata.get(key) ?? fallback;
  if (typeof value === "bigint" && value >= 0n && value <= BigInt(Number.MAX_SAFE_INTEGER)) return Number(value);
  if (typeof value === "number" && Number.isFinite(value)) return value;
  throw new AppError(`GGUF metadata "${key}" is ${value === undefined ? "missing" : "not a number"}`, { code: "BadGguf" });
}

export function ggufInteger(metadata: Metadata, key: string): number | undefined {
  return metadata.has(key) ? number(metadata, key) : undefined;
}

const topLevel: Readonly<Record<string, string>> = {
  "token_embd.weight": "model.embed_tokens.weight",
  "output_norm.weight": "model.norm.weight",
  "output.weight": "lm_head.weight",
};

const perLayer: Readonly<Record<string, string>> = {
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

/** Hugging Face's name of a GGUF tensor; undefined when the llama architecture has no such tensor. */
export function huggingFaceName(name: string): string | undefined {
  if (Object.hasOwn(topLevel, name)) return topLevel[name];
  const match = /^blk\.(\d+)\.([a-z_]+)\.weight$/.exec(name);
  const part = match && Object.hasOwn(perLayer, match[2] as string) ? perLayer[match[2] as string] : undefined;
  return part && match ? `model.layers.${match[1]}.${part}.weight` : undefined;
}

/** llama.cpp scales positions linearly where a file gives a factor and no type; `rope.scale_linear` is the old name of that factor. */
function refuseScaledRope(metadata: Metadata, where: string): void {
  const type = metadata.get("llama.rope.scaling.type") ?? "linear";
  const key = ["llama.rope.scaling.factor", "llama.rope.scale_linear"].find((name) => metadata.has(name));
  const factor = key === undefined ? 1 : number(metadata, key);
  if (type === "none" || (type === "linear" && (factor === 0 || factor === 1))) return; // 0 stands for no scaling too
  const said = type === "linear" && key !== undefined ? `${key} = ${factor}` : `llama.rope.scaling.type = ${String(type)}`;
  throw new AppError(`${where}: ${said} is not supported; rotary positions must not be scaled`, { code: "UnsupportedModel" });
}

export function llamaConfig(metadata: Metadata, where: string, tied: boolean, vocab: number): Readonly<Record<string, unknown>> {
  const architecture = metadata.get("general.architecture");
  if (architecture !== "llama") {
    throw new AppError(`${where}: GGUF architecture "${String(architecture)}" is not supported; "llama" is`, {
      code: "UnknownArchitecture",
    });
  }
  if (metadata.has("llama.expert_count") && number(metadata, "llama.expert_count") > 0) {
    throw new AppError(`${where}: MoE inside GGUF is not supported; import the safetensors folder of that model`, {
      code: "UnsupportedModel",
    });
  }
  refuseScaledRope(metadata, where);
  const hidden = number(metadata, "llama.embedding_length");
  const heads = number(metadata, "llama.attention.head_count");
  const headDim = number(metadata, "llama.attention.key_length", hidden / heads);
  const rotary = number(metadata, "llama.rope.dimension_count", headDim);
  if (rotary !== headDim)
    throw new AppError(`${where}: partial rotary embedding (${rotary} of ${headDim}) is not supported`, { code: "UnsupportedModel" });
  return {
    architectures: [llamaArchitecture],
    model_type: "llama",
    hidden_size: hidden,
    intermediate_size: number(metadata, "llama.feed_forward_length"),
    num_hidden_layers: number(metadata, "llama.block_count"),
    num_attention_heads: heads,
    num_key_value_heads: number(metadata, "llama.attention.head_count_kv", heads),
    head_dim: headDim,
    hidden_act: "silu",
    max_position_embeddings: number(metadata, "llama.context_length"),
    rms_norm_eps: Number(number(metadata, "llama.attention.layer_norm_rms_epsilon").toPrecision(7)), // stored as f32
    rope_theta: number(metadata, "llama.rope.freq_base", 10000),
    tie_word_embeddings: tied,
    vocab_size: vocab,
    bos_token_id: ggufInteger(metadata, "tokenizer.ggml.bos_token_id") ?? null,
    eos_token_id: ggufInteger(metadata, "tokenizer.ggml.eos_token_id") ?? null,
    pad_token_id: ggufInteger(metadata, "tokenizer.ggml.padding_token_id") ?? null,
    torch_dtype: "float32",
  };
}

/** GGUF's llama keeps each head's rotary pairs interleaved; Hugging Face wants the two halves apart.
 *  Row 2i + j of a head becomes row j * headDim / 2 + i. */
export function undoRotaryPermutation(weight: Float32Array, heads: number, rows: number, columns: number): Float32Array {
  const out = new Float32Array(weight.length);
  const headDim = rows / heads;
  const half = headDim / 2;
  for (let row = 0; row < rows; row++) {
    const head = Math.floor(row / headDim);
    const within = row % headDim;
    const to = head * headDim + (within % 2) * half + Math.floor(within / 2);
    out.set(weight.subarray(row * columns, (row + 1) * columns), to * columns);
  }
  return out;
}
