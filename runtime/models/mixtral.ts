// Mixtral: grouped-query attention, softmax router with renormalised top-k gates, gated FFN experts. Also what `upcycle` writes.
// Not here: what it shares with others (decoder.ts, moe.ts). Pure.
import { z } from "zod";
import type { ModelProgram } from "../kernels/segment.ts";
import { attentionPart, decoderDims, decoderFields, type FamilyReading } from "./decoder.ts";
import { type ModelFamily, parseConfig } from "./family.ts";
import { expertFields, expertsIn, gatedExpert, moeLayer, moeProgram, softmaxGate } from "./moe.ts";

/** `architectures[0]` of its config.json. */
export const mixtralArchitecture = "MixtralForCausalLM";
/** Hugging Face's MixtralConfig: `sliding_window` counts even where `use_sliding_window` is false, which it has no field for. */
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

export const mixtral: ModelFamily = {
  name: "mixtral",
  architectures: [mixtralArchitecture],
  program,
  expertTensors(layer, expert) {
    const at = `model.layers.${layer}.block_sparse_moe.experts.${expert}`;
    return { w1: `${at}.w1.weight`, w2: `${at}.w2.weight`, w3: `${at}.w3.weight` };
  },
};
