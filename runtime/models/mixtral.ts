// Mixtral: grouped-query attention, renormalised top-k softmax gates, gated FFN experts. `upcycle` writes it.
import { z } from "zod";
import type { ModelProgram } from "../kernels/segment.ts";
import { attentionPart, type DecoderDims, decoderDims, decoderFields, type FamilyReading } from "./decoder.ts";
import { type ModelFamily, parseConfig, unsupported } from "./family.ts";
import { llamaArchitecture } from "./llama.ts";
import { expertFields, expertsIn, gatedExpert, moeLayer, moeProgram, softmaxGate } from "./moe.ts";

export const mixtralArchitecture = "MixtralForCausalLM";
/** MixtralConfig has no `use_sliding_window`; `sliding_window` always counts. */
const reading: FamilyReading = { ropeBase: 1e6, yarn: false, kvHeads: 8, windowed: true };

const configSchema = z.looseObject({
  ...decoderFields,
  ...expertFields,
  hidden_act: z.string().default("silu"),
  rms_norm_eps: z.number().positive().default(1e-5),
});

function program(config: unknown): ModelProgram {
  const parsed = parseConfig(configSchema, config);
  const dims = decoderDims(parsed, reading);
  const { experts, topK } = expertsIn(parsed);
  const expert = gatedExpert(dims.hidden, dims.ffn);
  return moeProgram(mixtral.name, dims, (layer) => {
    const gate = { gate: `model.layers.${layer}.block_sparse_moe.gate`, experts, topK, normalize: true };
    return moeLayer(layer, dims, [attentionPart(dims, layer), softmaxGate(gate, dims.hidden)], { experts, topK, expert, shared: 0 });
  });
}

/** A dense Llama's config.json as a Mixtral's; it states the values where the families' defaults differ. */
export function mixtralConfig(
  raw: Readonly<Record<string, unknown>>,
  dims: DecoderDims,
  { experts, topK }: { readonly experts: number; readonly topK: number },
): Record<string, unknown> {
  const {
    rope_parameters: _rope,
    rope_scaling: _scaling,
    num_experts: _experts,
    mlp_bias: _bias,
    attention_bias: _attention,
    pretraining_tp: _tp,
    quantization_config: _quantized,
    ...rest
  } = raw;
  return {
    ...rest,
    architectures: [mixtralArchitecture],
    model_type: "mixtral",
    num_local_experts: experts,
    num_experts_per_tok: topK,
    num_key_value_heads: dims.kvHeads,
    rms_norm_eps: dims.eps,
    rope_theta: dims.ropeBase,
    sliding_window: null,
    tie_word_embeddings: dims.tied,
  };
}

/** The inverse of `mixtralConfig`. */
function averaged(config: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const dims = decoderDims(parseConfig(configSchema, config), reading);
  if (dims.window > 0) throw unsupported("sliding_window", dims.window, "null, since dense Llamas have none");
  const {
    num_local_experts: _experts,
    num_experts: _alias,
    num_experts_per_tok: _topK,
    sliding_window: _window,
    rope_parameters: _rope,
    rope_scaling: _scaling,
    upcycled: _upcycled,
    ...rest
  } = config;
  return {
    ...rest,
    architectures: [llamaArchitecture],
    model_type: "llama",
    num_key_value_heads: dims.kvHeads,
    rms_norm_eps: dims.eps,
    rope_theta: dims.ropeBase,
    tie_word_embeddings: dims.tied,
  };
}

export const mixtral: ModelFamily = {
  name: "mixtral",
  architectures: [mixtralArchitecture],
  program,
  averaged,
  expertTensors(layer, expert) {
    const at = `model.layers.${layer}.block_sparse_moe.experts.${expert}`;
    return { w1: `${at}.w1.weight`, w2: `${at}.w2.weight`, w3: `${at}.w3.weight` };
  },
};
