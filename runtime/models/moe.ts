// The parts that families with experts share: a gated expert, a softmax gate, layers and the program around them.
import { z } from "zod";
import { AppError } from "../../crds/common.ts";
import type { DenseLayer, ModelProgram, MoeLayer, Op, Segment, WeightDecl } from "../kernels/segment.ts";
import { type DecoderDims, embedSegment, gatedFfnOps, headSegment, joined, type Part } from "./decoder.ts";
import { type GatedFfnTensors, unsupported } from "./family.ts";

/** Experts of a layer, in a config's schema. */
export const expertCount = z.number().int().min(1).max(4096);

/** Experts that a token takes, at most. */
export const topKMax = 64;

/** Fields of config.json that say how many experts there are and how many a token takes. */
export const expertFields = {
  num_local_experts: expertCount.optional(),
  num_experts: expertCount.optional(),
  num_experts_per_tok: z.number().int().min(1).max(topKMax),
};

/** Where both names stand, their numbers have to agree. */
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

/** The matrices of a gated FFN. */
export function gatedFfnWeights({ w1, w2, w3 }: GatedFfnTensors, ffn: number, hidden: number): readonly WeightDecl[] {
  return [
    { name: w1, shape: [ffn, hidden] },
    { name: w2, shape: [hidden, ffn] },
    { name: w3, shape: [ffn, hidden] },
  ];
}

const unit: GatedFfnTensors = { w1: "w1", w2: "w2", w3: "w3" };

/** The names of a gated FFN's matrices as most families have them. */
export function projTensors(at: string): GatedFfnTensors {
  return { w1: `${at}.gate_proj.weight`, w2: `${at}.down_proj.weight`, w3: `${at}.up_proj.weight` };
}

/** `expertTensors` of the families that name a layer's experts `mlp.experts.N`. */
export function mlpExpertTensors(layer: number, expert: number): Readonly<Record<keyof GatedFfnTensors, string>> {
  return { ...projTensors(`model.layers.${layer}.mlp.experts.${expert}`) };
}

/** `expertTensors` of families without experts. */
export function noExperts(): Readonly<Record<string, string>> {
  return {};
}

/** An expert of a gated FFN. */
export function gatedExpert(hidden: number, ffn: number): Segment {
  return {
    name: "expert",
    inputs: [{ name: "x", dtype: "f32", width: hidden }],
    outputs: [{ name: "y", dtype: "f32", width: hidden }],
    weights: gatedFfnWeights(unit, ffn, hidden),
    ops: gatedFfnOps("x", unit, "y"),
  };
}

/** The choice of experts by softmax of the logits; `gate` is the part of its tensors' names before `.weight` and `.bias`. */
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

/** Values that a row carries behind its first `hidden`, into a layer and out of it. */
interface Carried {
  readonly into: number;
  readonly behind: number;
}

/** Of a layer among so many which each hand on as much to the next. */
export const carriedBy = (layer: number, layers: number, values: number): Carried => ({
  into: layer === 0 ? 0 : values,
  behind: layer === layers - 1 ? 0 : values,
});

/** The same ops over values of other names. */
export function renamed({ weights, ops }: Part, names: Readonly<Record<string, string>>): Part {
  const name = (key: string, value: unknown): unknown => (key !== "op" && typeof value === "string" ? (names[value] ?? value) : value);
  return {
    weights,
    ops: ops.map((op) => Object.fromEntries(Object.entries(op).map(([key, value]) => [key, name(key, value)])) as unknown as Op),
  };
}

/** A layer whose block is `parts` in turn: attention, then what gives ids and gates. */
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

/** A layer without experts among layers that have some: attention, then the gated FFN at `mlp`. */
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

/** The program of a family whose keys and values are of one size. */
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
