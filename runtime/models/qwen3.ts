// Qwen3, dense and with experts: heads have their own size and are normalized before rotation.
import { z } from "zod";
import type { ModelProgram } from "../kernels/segment.ts";
import { attentionPart, decoderDims, decoderFields, type FamilyReading } from "./decoder.ts";
import { type ModelFamily, parseConfig, unsupported } from "./family.ts";
import { denseLayer, expertFields, expertsIn, gatedExpert, mlpExpertTensors, moeLayer, moeProgram, noExperts, softmaxGate } from "./moe.ts";

/** The window of Qwen3Config and Qwen3MoeConfig needs `use_sliding_window`, which is refused. */
const reading: FamilyReading = { ropeBase: 1e4, yarn: true, windowed: false };
const refuseWindow = (used: boolean | null | undefined): void => {
  if (used) throw unsupported("use_sliding_window", true, "false");
};

const fields = {
  ...decoderFields,
  hidden_act: z.string().default("silu"),
  rms_norm_eps: z.number().positive().default(1e-6),
  use_sliding_window: z.boolean().nullish(),
};

const denseSchema = z.looseObject({ ...fields, head_dim: decoderFields.head_dim.default(128) });

function denseProgram(config: unknown): ModelProgram {
  const parsed = parseConfig(denseSchema, config);
  refuseWindow(parsed.use_sliding_window);
  const dims = decoderDims(parsed, { ...reading, kvHeads: 32 });
  return moeProgram(qwen3.name, dims, (layer) => denseLayer(layer, dims, attentionPart(dims, layer, { qkNorm: "heads" })));
}

export const qwen3: ModelFamily = { name: "qwen3", architectures: ["Qwen3ForCausalLM"], program: denseProgram, expertTensors: noExperts };

const moeSchema = z.looseObject({
  ...fields,
  ...expertFields,
  moe_intermediate_size: decoderFields.intermediate_size,
  norm_topk_prob: z.boolean().default(false),
  decoder_sparse_step: z.number().int().min(1).default(1),
  mlp_only_layers: z.array(z.number().int().min(0)).max(1024).nullish(),
});

function program(config: unknown): ModelProgram {
  const parsed = parseConfig(moeSchema, config);
  refuseWindow(parsed.use_sliding_window);
  const dims = decoderDims(parsed, { ...reading, kvHeads: 4 });
  const { experts, topK } = expertsIn(parsed);
  const normalize = parsed.norm_topk_prob;
  const dense = new Set(parsed.mlp_only_layers ?? []);
  const expert = gatedExpert(dims.hidden, parsed.moe_intermediate_size);
  return moeProgram(qwen3Moe.name, dims, (layer) => {
    const attention = attentionPart(dims, layer, { qkNorm: "heads" });
    if (dense.has(layer) || (layer + 1) % parsed.decoder_sparse_step !== 0) return denseLayer(layer, dims, attention);
    const gate = softmaxGate({ gate: `model.layers.${layer}.mlp.gate`, experts, topK, normalize }, dims.hidden);
    return moeLayer(layer, dims, [attention, gate], { experts, topK, expert, shared: 0 });
  });
}

export const qwen3Moe: ModelFamily = {
  name: "qwen3-moe",
  architectures: ["Qwen3MoeForCausalLM"],
  program,
  expertTensors: mlpExpertTensors,
};
