// A small Mixtral with seeded random weights, for suites that need a whole model and no files.

import type { CodecName } from "../../../crds/names.ts";
import { randomTensor } from "../../../runtime/kernels/random.ts";
import type { ModelProgram, MoeLayer, Segment } from "../../../runtime/kernels/segment.ts";
import type { WeightData, WeightOf, Weights } from "../../../runtime/kernels/weights.ts";
import { programOf } from "../../../runtime/models/index.ts";
import { codecFor } from "../../../runtime/weights/codecs/index.ts";
import type { ModelWeights } from "./small-engine.ts";

export interface SyntheticModel {
  readonly program: ModelProgram;
  readonly blocks: readonly Segment[];
  /** The expert of every layer. */
  readonly expertSegment: Segment;
  readonly experts: number;
  weights(segment: Segment): Weights;
  expert(layer: number, expert: number, form?: CodecName): Weights;
}

const base = {
  architectures: ["MixtralForCausalLM"],
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: 97,
  max_position_embeddings: 128,
  rms_norm_eps: 1e-5,
  rope_theta: 1e4,
  hidden_act: "silu",
  num_local_experts: 4,
  num_experts_per_tok: 2,
};

/** A number from a name, so that every tensor has its own values. */
export const seedOf = (name: string): number =>
  [...name].reduce((hash, char) => Math.imul(hash ^ char.charCodeAt(0), 16777619) >>> 0, 2166136261);

export function syntheticWeight(name: string, shape: readonly number[]): WeightOf<"f32"> {
  const fanIn = shape[1] ?? 1;
  const values = randomTensor(seedOf(name), shape, shape.length === 1 ? 0.2 : 1 / Math.sqrt(fanIn));
  return { form: "f32", shape, data: shape.length === 1 ? values.data.map((value) => value + 1) : values.data };
}

/** A model of any program, whose tensors are what `weightOf` says. */
export const modelOfProgram = (program: ModelProgram, weightOf = syntheticWeight): ModelWeights => ({
  program,
  weights: ({ weights }) => Object.fromEntries(weights.map(({ name, shape }) => [name, weightOf(name, shape)])),
  expert: (layer, expert) =>
    Object.fromEntries(
      (program.layers[layer] as MoeLayer).expert.weights.map(({ name, shape }) => [
        name,
        syntheticWeight(`${layer}.${expert}.${name}`, shape),
      ]),
    ),
});

export function syntheticModel(overrides: object = {}): SyntheticModel {
  const program = programOf({ ...base, ...overrides });
  const { expert: expertSegment, experts } = program.layers[0] as MoeLayer;
  return {
    program,
    blocks: program.layers.map(({ block }) => block),
    expertSegment,
    experts,
    weights: (segment) => Object.fromEntries(segment.weights.map(({ name, shape }) => [name, syntheticWeight(name, shape)])),
    expert(layer, expert, form = "f32") {
      return Object.fromEntries(
        expertSegment.weights.map(({ name, shape }) => {
          const f32 = syntheticWeight(`${layer}.${expert}.${name}`, shape);
          if (form === "f32") return [name, f32];
          const unit = codecFor(form).encode({ [name]: f32.data }, [{ name, shape }]);
          return [name, codecFor(form).decode(unit, [{ name, shape }])[name] as WeightData];
        }),
      );
    },
  };
}
