// Dense Llama.
import { z } from "zod";
import type { ModelProgram, Segment } from "../kernels/segment.ts";
import {
  attentionPart,
  type DecoderDims,
  decoderDims,
  decoderFields,
  embedSegment,
  type FamilyReading,
  gatedFfnOps,
  headSegment,
} from "./decoder.ts";
import { type GatedFfnTensors, type ModelFamily, parseConfig } from "./family.ts";
import { denseLayer, moeProgram, noExperts, projTensors } from "./moe.ts";

export const llamaArchitecture = "LlamaForCausalLM";
/** LlamaConfig's default base; its attention has no window. */
const reading: FamilyReading = { ropeBase: 1e4, yarn: false, windowed: false };
/** It adds the scaling of Llama 3.1, which an upcycled model cannot express. */
const scaledReading: FamilyReading = { ...reading, llama3: true };

const llamaConfigSchema = z.looseObject({
  ...decoderFields,
  hidden_act: z.string().default("silu"),
  rms_norm_eps: z.number().positive().default(1e-6),
  mlp_bias: z.literal(false).nullish(),
});

/** embed: ids -> x; block: x -> f (normed FFN input), y (layer output); head: x -> logits. */
export interface DenseProgram extends DecoderDims {
  readonly embed: Segment;
  readonly blocks: readonly Segment[];
  readonly head: Segment;
}

/** The FFN's matrices under an expert unit's names. */
export function ffnTensors(layer: number): GatedFfnTensors {
  return projTensors(`model.layers.${layer}.mlp`);
}

function blockSegment(dims: DecoderDims, layer: number): Segment {
  const attention = attentionPart(dims, layer);
  const w = ffnTensors(layer);
  return {
    name: `block.${layer}`,
    inputs: [{ name: "x", dtype: "f32", width: dims.hidden }],
    outputs: [
      { name: "f", dtype: "f32", width: dims.hidden },
      { name: "y", dtype: "f32", width: dims.hidden },
    ],
    weights: [
      ...attention.weights,
      { name: w.w1, shape: [dims.ffn, dims.hidden] },
      { name: w.w2, shape: [dims.hidden, dims.ffn] },
      { name: w.w3, shape: [dims.ffn, dims.hidden] },
    ],
    ops: [...attention.ops, ...gatedFfnOps("f", w, "d"), { op: "add", a: "h", b: "d", out: "y" }],
  };
}

function program(config: unknown): ModelProgram {
  const dims = decoderDims(parseConfig(llamaConfigSchema, config), scaledReading);
  return moeProgram(llama.name, dims, (layer) => denseLayer(layer, dims, attentionPart(dims, layer)));
}

export const llama: ModelFamily = { name: "llama", architectures: [llamaArchitecture], program, expertTensors: noExperts };

/** Upcycling reads it. */
export function llamaProgram(config: unknown): DenseProgram {
  const dims = decoderDims(parseConfig(llamaConfigSchema, config), reading);
  return {
    ...dims,
    embed: embedSegment(dims),
    blocks: Array.from({ length: dims.layers }, (_, layer) => blockSegment(dims, layer)),
    head: headSegment(dims),
  };
}
