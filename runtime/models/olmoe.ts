// OLMoE: queries and keys are normalized over the whole row before rotation.
import { z } from "zod";
import type { ModelProgram } from "../kernels/segment.ts";
import { attentionPart, decoderDims, decoderFields, type FamilyReading } from "./decoder.ts";
import { type ModelFamily, parseConfig, unsupported } from "./family.ts";
import { expertFields, expertsIn, gatedExpert, mlpExpertTensors, moeLayer, moeProgram, softmaxGate } from "./moe.ts";

/** OlmoeConfig's defaults: as many KV heads as query heads, no window. */
const reading: FamilyReading = { ropeBase: 1e4, yarn: true, windowed: false };

const configSchema = z.looseObject({
  ...decoderFields,
  ...expertFields,
  hidden_act: z.string().default("silu"),
  rms_norm_eps: z.number().positive().default(1e-5),
  norm_topk_prob: z.boolean().default(false),
  clip_qkv: z.number().nullish(),
});

function program(config: unknown): ModelProgram {
  const parsed = parseConfig(configSchema, config);
  if (parsed.clip_qkv != null) throw unsupported("clip_qkv", parsed.clip_qkv, "null");
  // transformers normalizes queries by a weight of hidden_size values, whatever a head's size.
  if (parsed.head_dim != null && parsed.head_dim * parsed.num_attention_heads !== parsed.hidden_size)
    throw unsupported("head_dim", parsed.head_dim, "hidden_size / num_attention_heads, or leave it out");
  const dims = decoderDims(parsed, reading);
  const { experts, topK } = expertsIn(parsed);
  const normalize = parsed.norm_topk_prob;
  const expert = gatedExpert(dims.hidden, dims.ffn);
  return moeProgram(olmoe.name, dims, (layer) => {
    const gate = softmaxGate({ gate: `model.layers.${layer}.mlp.gate`, experts, topK, normalize }, dims.hidden);
    const parts = [attentionPart(dims, layer, { qkNorm: "row" }), gate];
    return moeLayer(layer, dims, parts, { experts, topK, expert, shared: 0 });
  });
}

export const olmoe: ModelFamily = {
  name: "olmoe",
  architectures: ["OlmoeForCausalLM"],
  program,
  expertTensors: mlpExpertTensors,
};
