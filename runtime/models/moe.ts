// Parts that families with experts share: gated expert, softmax gate, layers and program.
import { z } from "zod";
import { AppError } from "../../crds/common.ts";
import type { DenseLayer, ModelProgram, MoeLayer, Op, Segment, WeightDecl } from "../kernels/segment.ts";
import { type DecoderDims, embedSegment, gatedFfnOps, headSegment, joined, type Part } from "./decoder.ts";
import { type GatedFfnTensors, unsupported } from "./family.ts";

export const expertCount = z.number().int().min(1).max(4096);

export const topKMax = 64;

export const expertFields = {
  num_local_experts: expertCount.optional(),
  num_experts: expertCount.optional(),
  num_experts_per_tok: z.number().int().min(1).max(topKMax),
};

/** Both names must agree if both are set. */
export function expertsIn(config: z.infer<z.ZodObject<typeof expertFields>>): { readonly experts: number; readonly topK: number } {
  const { num_local_experts: local, num_experts: other, num_experts_per_tok: topK } = config;
  const experts = local ?? other;
  if (experts === undefined)
    throw new AppError("config.json is not usable: num_local_experts (or num_experts): a number of experts was expected", {
      code: "InvalidModelConfig",
      operation: "reading config.json",
    });
  if (other !== undefined && other !== experts)
    throw unsupported("num_experts", other, `the same as num_local_experts (${experts}), or leave one of them out`);
  if (topK > experts) throw unsupported("num_experts_per_tok", topK, `at most the number of experts (${experts})`);
  return { experts, topK };
}

const countFields = ["num_local_experts", "num_experts", "n_routed_experts"] as const;

/** A config.json with another number of experts, under the names that it has. */
export function resized(
  config: Readonly<Record<string, unknown>>,
  { experts, topK }: { readonly experts: number; readonly topK: number },
): Record<string, unknown> {
  const counts = countFields.filter((field) => config[field] != null).map((field) => [field, experts]);
  return { ...config, ...Object.fromEntries(counts), num_experts_per_tok: topK };
}

export function gatedFfnWeights({ w1, w2, w3 }: GatedFfnTensors, ffn: number, hidden: number): readonly WeightDecl[] {
  return [
    { name: w1, shape: [ffn, hidden] },
    { name: w2, shape: [hidden, ffn] },
    { name: w3, shape: [ffn, hidden] },
  ];
}

const unit: GatedFfnTensors = { w1: "w1", w2: "w2", w3: "w3" };

export function projTensors(at: string): GatedFfnTensors {
  return { w1: `${at}.gate_proj.weight`, w2: `${at}.down_proj.weight`, w3: `${at}.up_proj.weight` };
}

/** `expertTensors` for names like `mlp.experts.N`. */
export function mlpExpertTensors(layer: number, expert: number): Readonly<Record<keyof GatedFfnTensors, string>> {
  return { ...projTensors(`model.layers.${layer}.mlp.experts.${expert}`) };
}

/** `expertTensors` of dense families. */
export function noExperts(): Readonly<Record<string, string>> {
  return {};
}

export function gatedExpert(hidden: number, ffn: number): Segment {
  return {
    name: "expert",
    inputs: [{ name: "x", dtype: "f32", width: hidden }],
    outputs: [{ name: "y", dtype: "f32", width: hidden }],
    weights: gatedFfnWeights(unit, ffn, hidden),
    ops: gatedFfnOps("x", unit, "y"),
  };
}

/** A softmax gate; `gate` is the prefix of its tensors' names. */
export interface SoftmaxGate {
  readonly gate: string;
  readonly experts: number;
  readonly topK: number;
  readonly normalize: boolean;
  readonly biased?: boolean;
}

/** f -> ids, gates. */
export function softmaxGate({ gate, experts, topK, normalize, biased }: SoftmaxGate, hidden: number): Part {
  const weight = `${gate}.weight`;
  const matrix = { name: weight, shape: [experts, hidden] };
  const route = { op: "route", logits: "logits", topK, normalize, ids: "ids", gates: "gates" } as const;
  if (!biased) return { weights: [matrix], ops: [{ op: "matMul", x: "f", weight, out: "logits" }, route] };
  const row = `${gate}.bias`;
  return {
    weights: [matrix, { name: row, shape: [experts] }],
    ops: [{ op: "matMul", x: "f", weight, out: "scores" }, { op: "addRow", x: "scores", row, out: "logits" }, route],
  };
}

/** Values that a row carries after its first `hidden`, into and out of a layer. */
interface Carried {
  readonly into: number;
  readonly behind: number;
}

export const carriedBy = (layer: number, layers: number, values: number): Carried => ({
  into: layer === 0 ? 0 : values,
  behind: layer === layers - 1 ? 0 : values,
});

export function renamed({ weights, ops }: Part, names: Readonly<Record<string, string>>): Part {
  const name = (key: string, value: unknown): unknown => (key !== "op" && typeof value === "string" ? (names[value] ?? value) : value);
  return {
    weights,
    ops: ops.map((op) => Object.fromEntries(Object.entries(op).map(([key, value]) => [key, name(key, value)])) as unknown as Op),
  };
}

/** A layer whose block is `parts` in sequence: attention, then gates. */
export function moeLayer(
  layer: number,
  { hidden, carried }: Pick<DecoderDims, "hidden"> & { readonly carried?: Carried },
  parts: readonly Part[],
  experts: Omit<MoeLayer, "kind" | "block">,
): MoeLayer {
  return {
    kind: "moe",
    ...experts,
    block: {
      name: `block.${layer}`,
      inputs: [{ name: "x", dtype: "f32", width: hidden + (carried?.into ?? 0) }],
      outputs: [
        { name: "h", dtype: "f32", width: hidden + (carried?.behind ?? 0) },
        { name: "f", dtype: "f32", width: hidden },
        { name: "ids", dtype: "i32", width: experts.topK },
        { name: "gates", dtype: "f32", width: experts.topK },
      ],
      ...joined(...parts),
    },
  };
}

/** A dense layer in a model with experts: attention, then the gated FFN at `mlp`. */
export function denseLayer(layer: number, { hidden, ffn }: Pick<DecoderDims, "hidden" | "ffn">, attention: Part): DenseLayer {
  const w = projTensors(`model.layers.${layer}.mlp`);
  const mlp = { weights: gatedFfnWeights(w, ffn, hidden), ops: gatedFfnOps("f", w, "d") };
  const sum: Part = { weights: [], ops: [{ op: "add", a: "h", b: "d", out: "y" }] };
  return {
    kind: "dense",
    block: {
      name: `block.${layer}`,
      inputs: [{ name: "x", dtype: "f32", width: hidden }],
      outputs: [{ name: "y", dtype: "f32", width: hidden }],
      ...joined(attention, mlp, sum),
    },
  };
}

export function moeProgram(family: string, dims: DecoderDims, layerOf: (layer: number) => ModelProgram["layers"][number]): ModelProgram {
  const { hidden, vocab, heads, kvHeads, headDim, maxContext } = dims;
  return {
    family,
    layers: Array.from({ length: dims.layers }, (_, layer) => layerOf(layer)),
    hidden,
    vocab,
    heads,
    kvHeads,
    headDim,
    valueDim: headDim,
    maxContext,
    embed: embedSegment(dims),
    head: headSegment(dims),
  };
}
