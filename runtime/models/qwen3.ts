// Dense Qwen3: heads have their own size and are normalized before rotation.
import { z } from "zod";
import type { ModelProgram } from "../kernels/segment.ts";
import { attentionPart, decoderDims, decoderFields, type FamilyReading } from "./decoder.ts";
import { type ModelFamily, parseConfig, unsupported } from "./family.ts";
import { denseLayer, moeProgram, noExperts } from "./moe.ts";

/** Qwen3Config's window needs `use_sliding_window`, which is refused. */
const reading: FamilyReading = { ropeBase: 1e4, yarn: true, kvHeads: 32, windowed: false };

const configSchema = z.looseObject({
  ...decoderFields,
  head_dim: decoderFields.head_dim.default(128),
  hidden_act: z.string().default("silu"),
  rms_norm_eps: z.number().positive().default(1e-6),
  use_sliding_window: z.boolean().nullish(),
});

function program(config: unknown): ModelProgram {
  const parsed = parseConfig(configSchema, config);
  if (parsed.use_sliding_window) throw unsupported("use_sliding_window", true, "false");
  const dims = decoderDims(parsed, reading);
  return moeProgram(qwen3.name, dims, (layer) => denseLayer(layer, dims, attentionPart(dims, layer, { qkNorm: "heads" })));
}

export const qwen3: ModelFamily = { name: "qwen3", architectures: ["Qwen3ForCausalLM"], program, expertTensors: noExperts };
