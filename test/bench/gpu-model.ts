// The shapes that `bench -- gpu` measures, as models of drawn weights: the same ones in every run.
import type { CodecName } from "../../crds/names.ts";
import { randomTensor } from "../../runtime/kernels/random.ts";
import type { MoeLayer, Segment } from "../../runtime/kernels/segment.ts";
import type { WeightData, Weights } from "../../runtime/kernels/weights.ts";
import { programOf } from "../../runtime/models/index.ts";
import { codecFor } from "../../runtime/weights/codecs/index.ts";
import type { ModelWeights } from "../kit/models/small-engine.ts";
import type { Qwen3MoeConfig } from "./llama/model-gguf.ts";

export interface Shape {
  /** Of the whole model; a run has one or two of them. */
  readonly layers: number;
  readonly prompt: number;
  readonly config: Qwen3MoeConfig;
}

const common = { rms_norm_eps: 1e-6, rope_theta: 1e6 };

export const shapes: Readonly<Record<string, Shape>> = {
  // That of Qwen3-30B-A3B.
  "30b": {
    layers: 48,
    prompt: 512,
    config: {
      ...common,
      ...{ hidden_size: 2048, intermediate_size: 6144, moe_intermediate_size: 768, num_experts: 128, num_experts_per_tok: 8 },
      ...{ num_attention_heads: 32, num_key_value_heads: 4, head_dim: 128, vocab_size: 151_936, max_position_embeddings: 4096 },
    },
  },
  tiny: {
    layers: 4,
    prompt: 32,
    config: {
      ...common,
      ...{ hidden_size: 64, intermediate_size: 128, moe_intermediate_size: 64, num_experts: 8, num_experts_per_tok: 2 },
      ...{ num_attention_heads: 4, num_key_value_heads: 2, head_dim: 16, vocab_size: 256, max_position_embeddings: 128 },
    },
  },
};

/** Random values that matrices repeat: drawing each of large ones would take minutes. A prime, so that no two rows are alike. */
const drawn = 65_521;

function matrix(shape: readonly number[]): Float32Array {
  const block = randomTensor(1, [drawn], 0.02).data;
  const data = new Float32Array(shape.reduce((product, size) => product * size, 1));
  for (let at = 0; at < data.length; at += block.length) data.set(block.subarray(0, Math.min(block.length, data.length - at)), at);
  return shape.length === 1 ? data.fill(1) : data;
}

export function randomModel({ config }: Shape, layers: number, codec: CodecName): ModelWeights {
  const fixed = { architectures: ["Qwen3MoeForCausalLM"], hidden_act: "silu", norm_topk_prob: true, num_hidden_layers: layers };
  const program = programOf(Object.assign({}, config, fixed));
  const { expert } = program.layers[0] as MoeLayer;
  const declared = expert.weights.map(({ name, shape: sizes }) => ({ name, shape: sizes }));
  const { encode, decode } = codecFor(codec);
  const unit = decode(encode(Object.fromEntries(declared.map((each) => [each.name, matrix(each.shape)])), declared), declared) as Weights;
  const weights = (segment: Segment): Weights =>
    Object.fromEntries(
      segment.weights.map(({ name, shape: sizes }) => [name, { form: "f32", shape: sizes, data: matrix(sizes) } as WeightData]),
    );
  return { program, weights, expert: () => unit }; // alike in their values, each in its own memory on the device
}
