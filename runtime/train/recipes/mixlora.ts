// MixLoRA beside a dense Llama: every FFN becomes experts of its matrices plus a low-rank product, W + B A, with a softmax gate;
// attention gets such a product too. Tensor names are those of MixLoRA's own files.
import type { Op, Segment, WeightDecl } from "../../kernels/segment.ts";
import { attentionPart, embedSegment, headSegment, joined, type Part } from "../../models/decoder.ts";
import { architectureOf, unsupported } from "../../models/family.ts";
import { ffnTensors, llamaArchitecture, llamaProgram } from "../../models/llama.ts";
import { mixtral, mixtralConfig } from "../../models/mixtral.ts";
import { moeLayer, moeProgram, softmaxGate, topKMax } from "../../models/moe.ts";
import type { ModelSource } from "../model/model-source.ts";
import { type Adapted, adaptedModel, type Merged } from "../model/trained-model.ts";
import { type Numbers, type Recipe, type Staged, whole } from "./recipe.ts";

const [expertsMax, rankMax] = [256, 1024];
const gateDeviation = 0.02;

const attentionNames = ["q_proj", "k_proj", "v_proj", "o_proj"] as const;
const ffnNames = { w1: "gate_proj", w2: "down_proj", w3: "up_proj" } as const;
type Matrix = keyof typeof ffnNames;
const matrices = Object.keys(ffnNames) as readonly Matrix[];

const pair = (at: string) => ({ right: `${at}.lora_A.weight`, left: `${at}.lora_B.weight` });

/** x W^T + (x A^T) B^T, with W frozen. */
function adaptedProduct({ weight, x, out }: Extract<Op, { op: "matMul" }>, { left, right }: ReturnType<typeof pair>): readonly Op[] {
  const [base, low, high] = [`${out}.base`, `${out}.low`, `${out}.high`];
  return [
    { op: "matMul", x, weight, out: base },
    { op: "matMul", x, weight: right, out: low },
    { op: "matMul", x: low, weight: left, out: high },
    { op: "add", a: base, b: high, out },
  ];
}

function pairWeights({ left, right }: ReturnType<typeof pair>, shape: readonly number[], rank: number): readonly WeightDecl[] {
  const [rows = 1, columns = 1] = shape;
  return [
    { name: right, shape: [rank, columns] },
    { name: left, shape: [rows, rank] },
  ];
}

const frozen = (weight: WeightDecl): WeightDecl => ({ ...weight, frozen: true });

function adaptedAttention({ weights, ops }: Part, pairs: ReadonlyMap<string, ReturnType<typeof pair>>, rank: number): Part {
  return {
    weights: weights.flatMap((weight) => {
      const own = pairs.get(weight.name);
      return [frozen(weight), ...(own === undefined ? [] : pairWeights(own, weight.shape, rank))];
    }),
    ops: ops.flatMap((op) => {
      const own = op.op === "matMul" ? pairs.get(op.weight) : undefined;
      return op.op === "matMul" && own !== undefined ? adaptedProduct(op, own) : [op];
    }),
  };
}

/** The base's products are computed per expert, so that rows between ranks keep one width. */
function expertSegment(hidden: number, ffn: number, rank: number): Segment {
  const shapes: Readonly<Record<Matrix, readonly [number, number]>> = { w1: [ffn, hidden], w2: [hidden, ffn], w3: [ffn, hidden] };
  const product = (matrix: Matrix, x: string, out: string): readonly Op[] =>
    adaptedProduct({ op: "matMul", x, weight: matrix, out }, pair(matrix));
  return {
    name: "expert",
    inputs: [{ name: "x", dtype: "f32", width: hidden }],
    outputs: [{ name: "y", dtype: "f32", width: hidden }],
    weights: matrices.flatMap((matrix) => [
      { name: matrix, shape: shapes[matrix], frozen: true as const },
      ...pairWeights(pair(matrix), shapes[matrix], rank),
    ]),
    ops: [...product("w1", "x", "g"), ...product("w3", "x", "u"), { op: "siluMul", a: "g", b: "u", out: "m" }, ...product("w2", "m", "y")],
  };
}

const attentionAt = (layer: number, name: string): string => `mixlora.layers.${layer}.self_attn.${name}`;
const gateAt = (layer: number): string => `mixlora.layers.${layer}.mlp.moe_gate`;
const expertAt = (layer: number, matrix: Matrix, expert: number): string =>
  `mixlora.layers.${layer}.mlp.${ffnNames[matrix]}.experts.${expert}`;

function expertTensors(layer: number, expert: number): Readonly<Record<string, string>> {
  const base = ffnTensors(layer);
  return Object.fromEntries(
    matrices.flatMap((matrix) => {
      const [own, tensors] = [pair(matrix), pair(expertAt(layer, matrix, expert))];
      return [
        [matrix, base[matrix]],
        [own.right, tensors.right],
        [own.left, tensors.left],
      ];
    }),
  );
}

function mergedTensors(layers: number, experts: number): ReadonlyMap<string, Merged> {
  const found = new Map<string, Merged>();
  for (let layer = 0; layer < layers; layer++) {
    for (const name of attentionNames) {
      const tensor = `model.layers.${layer}.self_attn.${name}.weight`;
      found.set(tensor, { tensor, product: pair(attentionAt(layer, name)) });
    }
    found.set(`model.layers.${layer}.block_sparse_moe.gate.weight`, { tensor: `${gateAt(layer)}.weight` });
    for (let expert = 0; expert < experts; expert++) {
      const names = mixtral.expertTensors(layer, expert);
      for (const matrix of matrices) {
        const product = pair(expertAt(layer, matrix, expert));
        found.set(names[matrix] as string, { tensor: ffnTensors(layer)[matrix], product });
      }
    }
  }
  return found;
}

function adapted({ config }: ModelSource, { experts = 0, topk: topK = 0, rank = 0 }: Numbers, refuse: Staged["refuse"]): Adapted {
  const architecture = architectureOf(config);
  if (architecture !== llamaArchitecture)
    throw unsupported("architectures", architecture, `${llamaArchitecture}, to train MixLoRA beside it`);
  const dims = llamaProgram(config);
  const most = Math.min(dims.hidden, dims.ffn);
  if (rank > most) refuse(`RANK must be at most ${most}`);
  const expert = expertSegment(dims.hidden, dims.ffn, rank);
  const program = moeProgram("mixlora", dims, (layer) => {
    const pairs = attentionNames.map((name) => [`model.layers.${layer}.self_attn.${name}.weight`, pair(attentionAt(layer, name))] as const);
    const attention = adaptedAttention(attentionPart(dims, layer), new Map(pairs), rank);
    const gate = softmaxGate({ gate: gateAt(layer), experts, topK, normalize: true }, dims.hidden);
    return moeLayer(layer, dims, [joined(attention, gate)], { experts, topK, expert, shared: 0 });
  });
  const ends = { embed: embedSegment(dims), head: headSegment(dims) };
  const merged = mergedTensors(dims.layers, experts);
  return {
    program: {
      ...program,
      embed: { ...ends.embed, weights: ends.embed.weights.map(frozen) },
      head: { ...ends.head, weights: ends.head.weights.map(frozen) },
    },
    expertTensors,
    deviation(tensor, [, columns = 1]) {
      if (tensor.endsWith(".lora_B.weight")) return 0;
      return tensor.endsWith(".lora_A.weight") ? 1 / Math.sqrt(3 * columns) : gateDeviation;
    },
    config: mixtralConfig(config, dims, { experts, topK }),
    family: mixtral,
    merged: (tensor) => merged.get(tensor) ?? { tensor },
    description: { file: "adapter_config.json", json: describe(experts, topK, rank) },
  };
}

/** MixLoRA's own fields; a product is multiplied by lora_alpha / r. */
function describe(experts: number, topK: number, rank: number): Readonly<Record<string, unknown>> {
  return {
    bias: "none",
    peft_type: "MIXLORA",
    task_type: "CAUSAL_LM",
    r: rank,
    lora_alpha: rank,
    lora_dropout: 0,
    target_modules: [...attentionNames, ...Object.values(ffnNames)],
    routing_strategy: "mixlora",
    num_experts: experts,
    top_k: topK,
  };
}

export const mixlora: Recipe = {
  option: "adapters",
  numbers: { experts: whole(2, expertsMax), topk: whole(1, topKMax), rank: whole(1, rankMax) },
  refuses: ({ experts = 0, topk = 0 }) => (topk > experts ? `TOPK must be at most EXPERTS, ${experts}` : undefined),
  model: (source, numbers, { seed, refuse }) => adaptedModel(source, adapted(source, numbers, refuse), seed),
};
