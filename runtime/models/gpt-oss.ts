// gpt-oss: alternating sliding and full attention, with a sink score per head.
import { z } from "zod";
import type { ModelProgram, Segment } from "../kernels/segment.ts";
import { attentionPart, decoderDims, decoderFields, type FamilyReading } from "./decoder.ts";
import { type ModelFamily, parseConfig, unsupported } from "./family.ts";
import { expertFields, expertsIn, moeLayer, moeProgram, projTensors, softmaxGate } from "./moe.ts";

/** GptOssConfig's defaults. */
const reading: FamilyReading = { ropeBase: 150_000, yarn: true, kvHeads: 8, windowed: false, biased: true };
const windowDefault = 128;
const ropeDefault = { rope_type: "yarn", factor: 32, beta_fast: 32, beta_slow: 1, truncate: false, original_max_position_embeddings: 4096 };

const layerKinds = ["sliding_attention", "full_attention"] as const;

const configSchema = z.looseObject({
  ...decoderFields,
  ...expertFields,
  head_dim: decoderFields.head_dim.default(64),
  hidden_act: z.string().default("silu"),
  rms_norm_eps: z.number().positive().default(1e-5),
  attention_bias: z.boolean().default(true),
  layer_types: z.array(z.string()).max(1024).nullish(),
  swiglu_alpha: z.number().positive().default(1.702),
  swiglu_limit: z.number().positive().default(7),
});
type Config = z.infer<typeof configSchema>;

/** The window of every layer, 0 = none; by default every other layer has one. */
function windowsOf({ layer_types: types, sliding_window: said, num_hidden_layers: layers }: Config): readonly number[] {
  const kinds = types ?? Array.from({ length: layers }, (_, layer) => layerKinds[layer % 2] as string);
  if (kinds.length !== layers) throw unsupported("layer_types", kinds.length, `as many entries as num_hidden_layers (${layers})`);
  return kinds.map((kind, layer) => {
    if (!layerKinds.some((known) => known === kind))
      throw unsupported(`layer_types.${layer}`, kind, layerKinds.map((known) => `"${known}"`).join(" or "));
    if (kind === "full_attention") return 0;
    if (said === null) throw unsupported("sliding_window", said, "a number of tokens, since layers have sliding attention");
    return said ?? windowDefault;
  });
}

function expertSegment(hidden: number, ffn: number, { swiglu_alpha: alpha, swiglu_limit: limit }: Config): Segment {
  return {
    name: "expert",
    inputs: [{ name: "x", dtype: "f32", width: hidden }],
    outputs: [{ name: "y", dtype: "f32", width: hidden }],
    weights: [
      { name: "w1", shape: [ffn, hidden] },
      { name: "b1", shape: [ffn] },
      { name: "w2", shape: [hidden, ffn] },
      { name: "b2", shape: [hidden] },
      { name: "w3", shape: [ffn, hidden] },
      { name: "b3", shape: [ffn] },
    ],
    ops: [
      { op: "matMul", x: "x", weight: "w1", out: "g.plain" },
      { op: "addRow", x: "g.plain", row: "b1", out: "g" },
      { op: "matMul", x: "x", weight: "w3", out: "u.plain" },
      { op: "addRow", x: "u.plain", row: "b3", out: "u" },
      { op: "clampedSwiglu", a: "g", b: "u", alpha, limit, out: "m" },
      { op: "matMul", x: "m", weight: "w2", out: "y.plain" },
      { op: "addRow", x: "y.plain", row: "b2", out: "y" },
    ],
  };
}

function program(config: unknown): ModelProgram {
  const parsed = parseConfig(configSchema, config);
  const plain = parsed.rope_scaling == null && parsed.rope_parameters == null;
  const dims = decoderDims(plain ? { ...parsed, rope_parameters: ropeDefault } : parsed, reading);
  const { experts, topK } = expertsIn(parsed);
  const biased = parsed.attention_bias;
  const windows = windowsOf(parsed);
  const expert = expertSegment(dims.hidden, dims.ffn, parsed);
  return moeProgram(gptOss.name, dims, (layer) => {
    const attention = attentionPart(dims, layer, { biased, sinks: true, window: windows[layer] as number });
    const gate = { gate: `model.layers.${layer}.mlp.router`, experts, topK, normalize: true, biased: true };
    return moeLayer(layer, dims, [attention, softmaxGate(gate, dims.hidden)], { experts, topK, expert, shared: 0 });
  });
}

function expertTensors(layer: number, expert: number): Readonly<Record<string, string>> {
  const at = `model.layers.${layer}.mlp.experts.${expert}`;
  const biases = { b1: `${at}.gate_proj.bias`, b2: `${at}.down_proj.bias`, b3: `${at}.up_proj.bias` };
  return { ...projTensors(at), ...biases };
}

export const gptOss: ModelFamily = {
  name: "gpt-oss",
  architectures: ["GptOssForCausalLM"],
  program,
  expertTensors,
  stacks: "interleaved",
};
