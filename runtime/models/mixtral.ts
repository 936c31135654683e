// Mixtral: grouped-query attention, softmax router with renormalised top-k gates, gated FFN experts. Also what `upcycle` writes.
// Not here: what it shares with dense decoders (decoder.ts). Pure.
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
import { type ModelFamily, parseConfig, unsupported } from "./family.ts";

/** `architectures[0]` of its config.json. */
export const mixtralArchitecture = "MixtralForCausalLM";
/** Hugging Face's MixtralConfig: `sliding_window` counts even where `use_sliding_window` is false, which it has no field for. */
const reading: FamilyReading = { ropeBase: 1e6, kvHeads: 8, windowed: true };

const expertCount = z.number().int().min(1).max(4096);

const mixtralConfigSchema = z
  .looseObject({
    ...decoderFields,
    hidden_act: z.string().default("silu"),
    rms_norm_eps: z.number().positive().default(1e-5),
    num_local_experts: expertCount.optional(),
    num_experts: expertCount.optional(),
    num_experts_per_tok: z.number().int().min(1).max(64),
  })
  .refine(({ num_local_experts, num_experts }) => (num_local_experts ?? num_experts) !== undefined, {
    path: ["num_local_experts"],
    message: "a number of experts was expected",
  });

/** `num_experts` is another name of `num_local_experts` in transformers; where both stand they have to agree. */
function expertsIn({ num_local_experts, num_experts }: z.infer<typeof mixtralConfigSchema>): number {
  if (num_local_experts !== undefined && num_experts !== undefined && num_local_experts !== num_experts)
    throw unsupported("num_experts", num_experts, `the same as num_local_experts (${num_local_experts}), or leave one of them out`);
  return (num_local_experts ?? num_experts) as number;
}

function blockSegment(dims: DecoderDims, layer: number, experts: number, topK: number): Segment {
  const gate = `model.layers.${layer}.block_sparse_moe.gate.weight`;
  const attention = attentionPart(dims, layer);
  return {
    name: `block.${layer}`,
    inputs: [{ name: "x", dtype: "f32", width: dims.hidden }],
    outputs: [
      { name: "h", dtype: "f32", width: dims.hidden },
      { name: "f", dtype: "f32", width: dims.hidden },
      { name: "ids", dtype: "i32", width: topK },
      { name: "gates", dtype: "f32", width: topK },
    ],
    weights: [...attention.weights, { name: gate, shape: [experts, dims.hidden] }],
    ops: [
      ...attention.ops,
      { op: "matMul", x: "f", weight: gate, out: "logits" },
      { op: "route", logits: "logits", topK, normalize: true, ids: "ids", gates: "gates" },
    ],
  };
}

function expertSegment(dims: DecoderDims): Segment {
  return {
    name: "expert",
    inputs: [{ name: "x", dtype: "f32", width: dims.hidden }],
    outputs: [{ name: "y", dtype: "f32", width: dims.hidden }],
    weights: [
      { name: "w1", shape: [dims.ffn, dims.hidden] },
      { name: "w2", shape: [dims.hidden, dims.ffn] },
      { name: "w3", shape: [dims.ffn, dims.hidden] },
    ],
    ops: gatedFfnOps("x", { w1: "w1", w2: "w2", w3: "w3" }, "y"),
  };
}

function program(config: unknown): ModelProgram {
  const parsed = parseConfig(mixtralConfigSchema, config);
  const dims = decoderDims(parsed, reading);
  const experts = expertsIn(parsed);
  const topK = parsed.num_experts_per_tok;
  if (topK > experts) throw unsupported("num_experts_per_tok", topK, `at most num_local_experts (${experts})`);
  const expert = expertSegment(dims); // one for all layers
  return {
    family: mixtral.name,
    layers: Array.from({ length: dims.layers }, (_, layer) => ({
      kind: "moe" as const,
      block: blockSegment(dims, layer, experts, topK),
      experts,
      topK,
      expert,
      shared: 0,
    })),
    hidden: dims.hidden,
    vocab: dims.vocab,
    heads: dims.heads,
    kvHeads: dims.kvHeads,
    headDim: dims.headDim,
    maxContext: dims.maxContext,
    embed: embedSegment(dims),
    head: headSegment(dims),
  };
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
