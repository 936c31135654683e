// A model of drawn weights as the GGUF file that llama.cpp reads: Qwen3-MoE with the very weights that a backend of ours is given, tensor
// by tensor, so that a shape is measured in both engines without a download. Without a tokenizer: the benchmark sends token ids.
import { AppError } from "../../../crds/common.ts";
import type { CodecName } from "../../../crds/names.ts";
import { numberOf, weightBytes } from "../../../runtime/compute/ggml/types.ts";
import type { MoeLayer, Segment } from "../../../runtime/kernels/segment.ts";
import { asF32 } from "../../../runtime/kernels/weights.ts";
import { codecFor } from "../../../runtime/weights/codecs/index.ts";
import type { GgufFloat, GgufMeta } from "../../kit/models/gguf-writer.ts";
import { mixtralMatrices, mixtralParts, mixtralTop } from "../../kit/models/moe-gguf.ts";
import type { ModelWeights } from "../../kit/models/small-engine.ts";
import { bytesOfWeight, denseType, encoded, type PlannedGguf, type PlannedTensor } from "./gguf.ts";

/** A config.json, as far as the file says it too. */
export interface Qwen3MoeConfig {
  readonly hidden_size: number;
  readonly intermediate_size: number;
  readonly moe_intermediate_size: number;
  readonly num_experts: number;
  readonly num_experts_per_tok: number;
  readonly num_attention_heads: number;
  readonly num_key_value_heads: number;
  readonly head_dim: number;
  readonly vocab_size: number;
  readonly max_position_embeddings: number;
  readonly rms_norm_eps: number;
  readonly rope_theta: number;
}

const parts: Readonly<Record<string, string>> = Object.assign({}, mixtralParts, {
  "self_attn.q_norm.weight": "attn_q_norm.weight",
  "self_attn.k_norm.weight": "attn_k_norm.weight",
  "mlp.gate.weight": "ffn_gate_inp.weight",
});

function ggufName(name: string): string {
  const [, layer, part = ""] = /^model\.layers\.(\d+)\.(.*)$/.exec(name) ?? [];
  const renamed = mixtralTop[name] ?? (part in parts ? `blk.${layer}.${parts[part]}` : undefined);
  if (renamed === undefined) throw new AppError(`llama.cpp has no tensor for ${name}`, { code: "UnsupportedShape" });
  return renamed;
}

/** Rows of queries and keys stay in their order: this architecture turns halves of a head, as Hugging Face has them. */
function denseTensors(model: ModelWeights, segment: Segment, codec: CodecName): PlannedTensor[] {
  return segment.weights.map(({ name, shape }) => {
    const type = denseType(name, shape, codec);
    const read = async (): Promise<Uint8Array> => {
      const weight = (await model.weights(segment))[name];
      if (weight === undefined) throw new AppError(`the model has no weight ${name}`, { code: "CorruptShard" });
      return encoded(type, shape, asF32(weight));
    };
    return { name: ggufName(name), shape, type: numberOf(type), bytes: weightBytes(type, shape), read };
  });
}

/** The matrices of a layer's experts, each kind stacked. */
function expertTensors(model: ModelWeights, layer: number, codec: CodecName): PlannedTensor[] {
  const { expert, experts } = model.program.layers[layer] as MoeLayer;
  const forms = codecFor(codec).forms(expert.weights);
  return expert.weights.map(({ name, shape }) => {
    const form = forms[name] ?? "f32";
    const read = async (): Promise<Uint8Array> => {
      const all: Uint8Array[] = [];
      for (let number = 0; number < experts; number++) all.push(bytesOfWeight(await model.expert(layer, number), name));
      return Buffer.concat(all);
    };
    const stacked = [experts, ...shape];
    return {
      name: `blk.${layer}.${mixtralMatrices[name]}_exps.weight`,
      shape: stacked,
      type: numberOf(form),
      bytes: experts * weightBytes(form, shape),
      read,
    };
  });
}

function metadataOf(config: Qwen3MoeConfig, layers: number): Readonly<Record<string, GgufMeta | GgufFloat>> {
  const own: Readonly<Record<string, GgufMeta | GgufFloat>> = {
    block_count: layers,
    context_length: config.max_position_embeddings,
    embedding_length: config.hidden_size,
    feed_forward_length: config.intermediate_size,
    expert_feed_forward_length: config.moe_intermediate_size,
    expert_count: config.num_experts,
    expert_used_count: config.num_experts_per_tok,
    "attention.head_count": config.num_attention_heads,
    "attention.head_count_kv": config.num_key_value_heads,
    "attention.key_length": config.head_dim,
    "attention.value_length": config.head_dim,
    "attention.layer_norm_rms_epsilon": { f32: config.rms_norm_eps },
    "rope.freq_base": { f32: config.rope_theta },
    vocab_size: config.vocab_size,
  };
  const named = Object.entries(own).map(([key, value]) => [`qwen3moe.${key}`, value] as const);
  return Object.fromEntries([["general.architecture", "qwen3moe"], ["tokenizer.ggml.model", "none"], ...named]);
}

export function planModelGguf(model: ModelWeights, config: Qwen3MoeConfig, codec: CodecName): PlannedGguf {
  const { embed, head, layers } = model.program;
  const dense = [embed, ...layers.map(({ block }) => block), head].flatMap((segment) => denseTensors(model, segment, codec));
  return { metadata: metadataOf(config, layers.length), tensors: [...dense, ...layers.flatMap((_, i) => expertTensors(model, i, codec))] };
}
