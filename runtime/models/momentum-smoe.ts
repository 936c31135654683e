// MomentumSMoE: p = momentum * p + experts(f), x = r + step * p, with r the residual after attention.
import { z } from "zod";
import type { ModelProgram, Op } from "../kernels/segment.ts";
import { attentionPart, decoderDims, decoderFields, type FamilyReading, joined, type Part } from "./decoder.ts";
import { type ModelFamily, parseConfig } from "./family.ts";
import { carriedBy, expertFields, expertsIn, gatedExpert, mlpExpertTensors, moeLayer, moeProgram, renamed } from "./moe.ts";

const reading: FamilyReading = { ropeBase: 1e6, yarn: false, windowed: true };

/** The paper's numbers. */
const configSchema = z.looseObject({
  ...decoderFields,
  ...expertFields,
  hidden_act: z.string().default("silu"),
  rms_norm_eps: z.number().positive().default(1e-5),
  momentum: z.number().min(0).lt(1).default(0.7),
  momentum_step: z.number().positive().max(10).default(1),
});

/** x -> row (the layer's input) and the previous momentum. */
const apart = (hidden: number): Part => ({
  weights: [],
  ops: [
    { op: "slice", x: "x", heads: 1, from: 0, width: hidden, out: "row" },
    { op: "slice", x: "x", heads: 1, from: hidden, width: hidden, out: "before" },
    { op: "scale", x: "before", by: -1, out: "before.negative" },
    { op: "add", a: "row", b: "before.negative", out: "given" },
  ],
});

/** r and the previous momentum -> h, followed by r for the next layer. */
function momentumPart(momentum: number, into: boolean, behind: boolean): Part {
  const end = (out: string): Op[] => [
    { op: "scale", x: "given", by: momentum, out: "kept" },
    { op: "add", a: "r", b: "kept", out },
  ];
  if (!behind) return { weights: [], ops: end("h") };
  const sum = into ? end("sum") : [];
  return { weights: [], ops: [...sum, { op: "joinHeads", x: into ? "sum" : "r", shared: "r", heads: 1, out: "h" }] };
}

/** A softmax gate with gates multiplied by `scale`. */
function gatePart(weight: string, { experts, topK, scale }: { experts: number; topK: number; scale: number }, hidden: number): Part {
  const groups = { sigmoid: false, groups: 1, groupsKept: 1, groupTop: 1, normalize: true } as const;
  const route: Op = { op: "groupRoute", logits: "logits", ...groups, topK, scale, ids: "ids", gates: "gates" };
  return { weights: [{ name: weight, shape: [experts, hidden] }], ops: [{ op: "matMul", x: "f", weight, out: "logits" }, route] };
}

function program(config: unknown): ModelProgram {
  const parsed = parseConfig(configSchema, config);
  const dims = decoderDims(parsed, reading);
  const { experts, topK } = expertsIn(parsed);
  const { hidden, layers } = dims;
  const expert = gatedExpert(hidden, dims.ffn);
  return moeProgram(momentumSmoe.name, dims, (layer) => {
    const carried = carriedBy(layer, layers, hidden);
    const [into, behind] = [carried.into > 0, carried.behind > 0];
    const gate = gatePart(`model.layers.${layer}.mlp.gate.weight`, { experts, topK, scale: parsed.momentum_step }, hidden);
    if (!into && !behind) return moeLayer(layer, { hidden }, [attentionPart(dims, layer), gate], { experts, topK, expert, shared: 0 });
    const plain = renamed(attentionPart(dims, layer), { h: "r" });
    const attention = into ? joined(apart(hidden), renamed(plain, { x: "row" })) : plain;
    const parts = [attention, momentumPart(parsed.momentum, into, behind), gate];
    return moeLayer(layer, { hidden, carried }, parts, { experts, topK, expert, shared: 0 });
  });
}

export const momentumSmoe: ModelFamily = {
  name: "momentum-smoe",
  architectures: ["MomentumSMoEForCausalLM"],
  program,
  expertTensors: mlpExpertTensors,
};
