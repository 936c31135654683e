// MoE++: Mixtral with zero, copy and constant experts, and a gate that adds the previous layer's scores through a matrix.
import { z } from "zod";
import type { ModelProgram, Op } from "../kernels/segment.ts";
import { attentionPart, type DecoderDims, decoderDims, decoderFields, type FamilyReading, joined, type Part } from "./decoder.ts";
import { type ModelFamily, parseConfig, unsupported } from "./family.ts";
import { carriedBy, expertFields, expertsIn, gatedExpert, mlpExpertTensors, moeLayer, moeProgram, renamed } from "./moe.ts";

const reading: FamilyReading = { ropeBase: 1e6, yarn: false, windowed: true };

const freeCount = z.number().int().min(0).max(64);

/** Defaults of the paper. */
const configSchema = z.looseObject({
  ...decoderFields,
  ...expertFields,
  hidden_act: z.string().default("silu"),
  rms_norm_eps: z.number().positive().default(1e-5),
  norm_topk_prob: z.boolean().default(false),
  num_constant_experts: freeCount.default(2),
  num_copy_experts: freeCount.default(1),
  num_zero_experts: freeCount.default(1),
  free_experts_tau: z.number().positive().max(1).default(0.75),
  gating_residual: z.boolean().default(true),
});

interface Gate {
  readonly experts: number;
  readonly topK: number;
  readonly normalize: boolean;
  readonly constants: number;
  readonly copies: number;
  readonly zeros: number;
  readonly residual: boolean;
}

const expertsOf = ({ experts, constants, copies, zeros }: Gate): number => experts + constants + copies + zeros;

/** Slices of a row that carries scores; `row` is the layer's input. */
const apart = (hidden: number, scores: number): Part => ({
  weights: [],
  ops: [
    { op: "slice", x: "x", heads: 1, from: 0, width: hidden, out: "row" },
    { op: "slice", x: "x", heads: 1, from: hidden, width: scores, out: "before" },
  ],
});

/** f -> logits, with the previous layer's scores if there are some. */
function scoresPart(at: string, gate: Gate, hidden: number, carries: boolean): Part {
  const [weight, residual] = [`${at}.gate.weight`, `${at}.gate.residual.weight`];
  const all = expertsOf(gate);
  const matrix = { name: weight, shape: [all, hidden] };
  if (!carries) return { weights: [matrix], ops: [{ op: "matMul", x: "f", weight, out: "logits" }] };
  return {
    weights: [matrix, { name: residual, shape: [all, all] }],
    ops: [
      { op: "matMul", x: "f", weight, out: "scores" },
      { op: "matMul", x: "before", weight: residual, out: "inherited" },
      { op: "add", a: "scores", b: "inherited", out: "logits" },
    ],
  };
}

/** r, f and logits -> ids, gates, and h with the free experts; the logits follow h for the next layer. */
function choicePart(at: string, gate: Gate, hidden: number, carries: boolean): Part {
  const { experts, topK, normalize, constants, copies, zeros } = gate;
  const [mix, values] = [`${at}.constants.mix.weight`, `${at}.constants.values.weight`];
  const free: Extract<Op, { op: "freeExperts" }> = {
    op: "freeExperts",
    x: carries ? "wide" : "r",
    f: "f",
    ids: "ids",
    gates: "gates",
    from: experts,
    copies,
    zeros,
    out: "h",
  };
  const wide: Op = { op: "joinHeads", x: "r", shared: "logits", heads: 1, out: "wide" };
  const route: Op = { op: "route", logits: "logits", topK, normalize, ids: "ids", gates: "gates" };
  const before = carries ? [wide] : [];
  if (constants === 0) return { weights: [], ops: [...before, route, free] };
  return {
    weights: [
      { name: mix, shape: [2 * constants, hidden] },
      { name: values, shape: [hidden, constants] },
    ],
    ops: [...before, { op: "matMul", x: "f", weight: mix, out: "mix" }, route, Object.assign({}, free, { mix: "mix", constants: values })],
  };
}

function layerOf(dims: DecoderDims, gate: Gate, tau: number) {
  const { hidden, ffn } = dims;
  const { experts, topK } = gate;
  const expert = gatedExpert(hidden, ffn);
  const free = { count: expertsOf(gate) - experts, balanceWeight: tau };
  return (layer: number) => {
    const at = `model.layers.${layer}.mlp`;
    const carried = carriedBy(layer, dims.layers, gate.residual ? expertsOf(gate) : 0);
    const plain = renamed(attentionPart(dims, layer), { h: "r" });
    const attention = carried.into > 0 ? joined(apart(hidden, carried.into), renamed(plain, { x: "row" })) : plain;
    const parts = [attention, scoresPart(at, gate, hidden, carried.into > 0), choicePart(at, gate, hidden, carried.behind > 0)];
    return moeLayer(layer, { hidden, carried }, parts, { experts, topK, expert, shared: 0, free });
  };
}

function program(config: unknown): ModelProgram {
  const parsed = parseConfig(configSchema, config);
  const dims = decoderDims(parsed, reading);
  const gate: Gate = {
    ...expertsIn(parsed),
    normalize: parsed.norm_topk_prob,
    constants: parsed.num_constant_experts,
    copies: parsed.num_copy_experts,
    zeros: parsed.num_zero_experts,
    residual: parsed.gating_residual,
  };
  if (expertsOf(gate) === gate.experts)
    throw unsupported("num_zero_experts", 0, "at least one of zero, copy and constant experts, or Mixtral's architecture without them");
  return moeProgram(moePlusPlus.name, dims, layerOf(dims, gate, parsed.free_experts_tau));
}

export const moePlusPlus: ModelFamily = {
  name: "moe-plus-plus",
  architectures: ["MoEPlusPlusForCausalLM"],
  program,
  expertTensors: mlpExpertTensors,
};
