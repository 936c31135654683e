// BAM: several attentions per layer, mixed by a token's gate, with separate or shared keys and values.
import { z } from "zod";
import type { ModelProgram } from "../kernels/segment.ts";
import { attentionPart, type DecoderDims, decoderDims, decoderFields, type FamilyReading } from "./decoder.ts";
import { type ModelFamily, parseConfig, unsupported } from "./family.ts";
import { mixtralConfig } from "./mixtral.ts";
import { expertFields, expertsIn, gatedExpert, mlpExpertTensors, moeLayer, moeProgram, softmaxGate } from "./moe.ts";

export const bamArchitecture = "BAMForCausalLM";

const reading: FamilyReading = { ropeBase: 1e6, yarn: false, windowed: true };

const attentionsMin = 2;
/** Over all attentions of a layer. */
const headsMax = 1024;

const configSchema = z.looseObject({
  ...decoderFields,
  ...expertFields,
  hidden_act: z.string().default("silu"),
  rms_norm_eps: z.number().positive().default(1e-5),
  num_attention_experts: z.number().int().min(attentionsMin).max(headsMax),
  share_key_values: z.boolean().default(false),
});

function program(config: unknown): ModelProgram {
  const parsed = parseConfig(configSchema, config);
  const one = decoderDims(parsed, reading);
  const attentions = parsed.num_attention_experts;
  const most = Math.floor(headsMax / one.heads);
  if (attentions > most)
    throw unsupported("num_attention_experts", attentions, `at most ${most} of ${one.heads} heads each, ${headsMax} heads in all`);
  const parts = attentions * one.kvHeads;
  const dims: DecoderDims = { ...one, heads: attentions * one.heads, kvHeads: parsed.share_key_values ? one.kvHeads : parts };
  const { experts, topK } = expertsIn(parsed);
  const expert = gatedExpert(dims.hidden, dims.ffn);
  return moeProgram(bam.name, dims, (layer) => {
    const attention = attentionPart(dims, layer, { mixed: { attentions, parts } });
    const gate = { gate: `model.layers.${layer}.mlp.gate`, experts, topK, normalize: true };
    return moeLayer(layer, dims, [attention, softmaxGate(gate, dims.hidden)], { experts, topK, expert, shared: 0 });
  });
}

/** A dense Llama's config.json for a model with so many of its FFNs and attentions per layer. */
export function bamConfig(
  raw: Readonly<Record<string, unknown>>,
  dims: DecoderDims,
  { experts, topK, shareKeyValues }: { readonly experts: number; readonly topK: number; readonly shareKeyValues: boolean },
): Record<string, unknown> {
  return {
    ...mixtralConfig(raw, dims, { experts, topK }),
    architectures: [bamArchitecture],
    model_type: "bam",
    num_attention_experts: experts,
    share_key_values: shareKeyValues,
  };
}

export const bam: ModelFamily = {
  name: "bam",
  architectures: [bamArchitecture],
  program,
  expertTensors: mlpExpertTensors,
};
