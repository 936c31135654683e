// A small model whose routing is planted, and the tokens of six workloads. A token is a pair of experts: its embedding points along
// their two directions, which the gates look for, so that the draw of tokens decides which experts have how many rows. Pure.
import { gaussian, uniform } from "../../../runtime/kernels/random.ts";
import type { ModelProgram } from "../../../runtime/kernels/segment.ts";
import { programOf } from "../../../runtime/models/index.ts";
import { type Layout, layoutOf } from "../../../runtime/train/model/layout.ts";

const experts = 16;
const hidden = 256;
/** Values of a row that an expert's direction has. */
const share = hidden / experts;

/** Sizes of a run. */
export interface Sizes {
  readonly layers: number;
  readonly sequences: number;
  readonly sequenceLength: number;
  readonly microBatches: number;
}

const ffn = 512;

export const configOf = (layers: number, width = ffn) => ({
  architectures: ["MixtralForCausalLM"],
  model_type: "mixtral",
  hidden_act: "silu",
  hidden_size: hidden,
  intermediate_size: width,
  max_position_embeddings: 1024,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  num_hidden_layers: layers,
  num_local_experts: experts,
  num_experts_per_tok: 2,
  rms_norm_eps: 1e-5,
  rope_theta: 10_000,
  sliding_window: null,
  tie_word_embeddings: false,
  vocab_size: experts * experts,
});

export interface Planted {
  readonly program: ModelProgram;
  readonly layout: Layout;
  readonly parameters: Float32Array;
}

/** How far an embedding points along its first and its second expert; the gate's reply is so much of it. */
const [first, second, reply] = [1, 0.6, 0.05];

/** The names of tensors as the family's checkpoints have them: the peer reads the weights by them. */
const expertTensors = (layer: number, expert: number): Readonly<Record<string, string>> => {
  const at = `model.layers.${layer}.block_sparse_moe.experts.${expert}`;
  return Object.fromEntries(["w1", "w2", "w3"].map((name) => [name, `${at}.${name}.weight`]));
};

export function plantedModel(layers: number, width = ffn): Planted {
  const program = programOf(configOf(layers, width));
  const layout = layoutOf(program, expertTensors);
  const parameters = gaussian(3, layout.floats, 0.02);
  const along = (from: number, expert: number, by: number): void => {
    for (let i = 0; i < share; i++) parameters[from + expert * share + i] = (parameters[from + expert * share + i] as number) + by;
  };
  for (const { from, to, tensor, shape } of layout.parts.flatMap(({ units }) => units.flatMap((unit) => unit.parameters))) {
    const layer = Number(/^model\.layers\.(\d+)\./.exec(tensor)?.[1] ?? 0);
    if (shape.length === 1) parameters.fill(1, from, to);
    if (tensor === "model.embed_tokens.weight")
      for (let token = 0; token < experts * experts; token++) {
        along(from + token * hidden, Math.floor(token / experts), first);
        along(from + token * hidden, token % experts, second);
      }
    // Each layer has another order of experts, so that the busy ones of layers live on several ranks.
    if (tensor.endsWith(".gate.weight")) for (const [expert, of] of shuffled(layer + 1).entries()) along(from + expert * hidden, of, reply);
  }
  return { program, layout, parameters };
}

function shuffled(seed: number): number[] {
  const draw = uniform(seed);
  return Array.from({ length: experts }, (_, expert) => ({ expert, key: draw() }))
    .sort((a, b) => a.key - b.key)
    .map(({ expert }) => expert);
}

const zipf = (exponent: number): number[] => Array.from({ length: experts }, (_, place) => (place + 1) ** -exponent);
const even = new Array<number>(experts).fill(1);
/** The same shares, of experts so many places on; between two whole numbers a mix of both. */
function turned(shares: readonly number[], by: number): number[] {
  const [whole, part] = [Math.floor(by), by - Math.floor(by)];
  const at = (place: number): number => shares[((place % experts) + experts) % experts] as number;
  return shares.map((_, e) => (1 - part) * at(e - whole) + part * at(e - whole - 1));
}

/** Shares of experts in a step. To add a workload: a line. */
const workloads = {
  balanced: () => even,
  /** By expert parallelism the busiest of four ranks has 1.8 times the mean of rows. */
  skewed: () => zipf(1.5),
  /** The order moves on by one expert every 8 steps. */
  drifting: (step) => turned(zipf(1.2), step / 8),
  /** Two steps of every eight have one expert that is wanted far more, each time another. */
  bursty: (step) => (step % 8 < 2 ? turned([10, ...even.slice(1)], 5 * Math.floor(step / 8)) : even),
  "long-tail": () => zipf(1.8),
  /** Two orders take turns. */
  alternating: (step) => (step % 2 === 0 ? zipf(1.2) : zipf(1.2).toReversed()),
} as const satisfies Readonly<Record<string, (step: number) => readonly number[]>>;
export type WorkloadName = keyof typeof workloads;
export const workloadNames = Object.keys(workloads) as readonly WorkloadName[];

function drawn(shares: readonly number[], sum: number, draw: () => number): number {
  let left = draw() * sum;
  const found = shares.findIndex((part) => {
    left -= part;
    return left < 0;
  });
  return found < 0 ? shares.length - 1 : found;
}

/** A step's micro-batches: [micro-batches][inputs, targets], each of whole sequences. */
export function batchOf(name: WorkloadName, step: number, { sequences, sequenceLength, microBatches }: Sizes) {
  const shares = workloads[name](step);
  const sum = shares.reduce((a, b) => a + b, 0);
  const draw = uniform(7919 * step + 1);
  const token = (): number => {
    const one = drawn(shares, sum, draw);
    const other = drawn(shares, sum, draw);
    return one * experts + (other === one ? (one + 1) % experts : other);
  };
  return Array.from({ length: microBatches }, () => {
    const rows = (sequences / microBatches) * sequenceLength;
    const [inputs, targets] = [new Int32Array(rows), new Int32Array(rows)];
    for (let at = 0; at < rows; at += sequenceLength) {
      const tokens = Array.from({ length: sequenceLength + 1 }, token);
      inputs.set(tokens.slice(0, -1), at);
      targets.set(tokens.slice(1), at);
    }
    return { inputs, targets };
  });
}
