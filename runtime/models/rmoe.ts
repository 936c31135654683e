// RMoE: a GRU shared by all layers carries a router state from layer to layer, and the gate scores it.
import { z } from "zod";
import type { ModelProgram, Op } from "../kernels/segment.ts";
import { attentionPart, decoderDims, decoderFields, type FamilyReading, joined, type Part } from "./decoder.ts";
import { type ModelFamily, parseConfig } from "./family.ts";
import { carriedBy, expertFields, expertsIn, gatedExpert, mlpExpertTensors, moeLayer, moeProgram, renamed } from "./moe.ts";

const reading: FamilyReading = { ropeBase: 1e6, yarn: false, windowed: true };

/** The paper's width of the state. */
const configSchema = z.looseObject({
  ...decoderFields,
  ...expertFields,
  hidden_act: z.string().default("silu"),
  rms_norm_eps: z.number().positive().default(1e-5),
  router_hidden_size: z.number().int().min(1).max(4096).default(128),
});

const cell = "model.router_cell";

/** x -> row (the layer's input) and the previous router state. */
const apart = (hidden: number, width: number): Part => ({
  weights: [],
  ops: [
    { op: "slice", x: "x", heads: 1, from: 0, width: hidden, out: "row" },
    { op: "slice", x: "x", heads: 1, from: hidden, width, out: "before" },
  ],
});

/** f and the previous state (zeros in the first layer) -> the new state. */
function statePart(at: string, hidden: number, width: number, first: boolean): Part {
  const proj = `${at}.gate.proj.weight`;
  const [input, inputBias] = [`${cell}.input.weight`, `${cell}.input.bias`];
  const [held, heldBias] = [`${cell}.state.weight`, `${cell}.state.bias`];
  const none: readonly Op[] = first ? [{ op: "scale", x: "seen", by: 0, out: "before" }] : [];
  return {
    weights: [
      { name: proj, shape: [width, hidden] },
      { name: input, shape: [3 * width, width] },
      { name: held, shape: [3 * width, width] },
      { name: inputBias, shape: [3 * width] },
      { name: heldBias, shape: [3 * width] },
    ],
    ops: [
      { op: "matMul", x: "f", weight: proj, out: "seen" },
      ...none,
      { op: "matMul", x: "seen", weight: input, out: "given.plain" },
      { op: "addRow", x: "given.plain", row: inputBias, out: "given" },
      { op: "matMul", x: "before", weight: held, out: "held.plain" },
      { op: "addRow", x: "held.plain", row: heldBias, out: "held" },
      { op: "gru", given: "given", held: "held", state: "before", out: "state" },
    ],
  };
}

function choicePart(at: string, { experts, topK }: { experts: number; topK: number }, width: number): Part {
  const weight = `${at}.gate.weight`;
  return {
    weights: [{ name: weight, shape: [experts, width] }],
    ops: [
      { op: "matMul", x: "state", weight, out: "logits" },
      { op: "route", logits: "logits", topK, normalize: true, ids: "ids", gates: "gates" },
    ],
  };
}

/** r, followed by the state for the next layer. */
const handedOn: Part = { weights: [], ops: [{ op: "joinHeads", x: "r", shared: "state", heads: 1, out: "h" }] };

function program(config: unknown): ModelProgram {
  const parsed = parseConfig(configSchema, config);
  const dims = decoderDims(parsed, reading);
  const { experts, topK } = expertsIn(parsed);
  const { hidden, layers } = dims;
  const width = parsed.router_hidden_size;
  const expert = gatedExpert(hidden, dims.ffn);
  return moeProgram(rmoe.name, dims, (layer) => {
    const at = `model.layers.${layer}.mlp`;
    const carried = carriedBy(layer, layers, width);
    const [first, last] = [carried.into === 0, carried.behind === 0];
    const plain = attentionPart(dims, layer);
    const named = last ? plain : renamed(plain, { h: "r" });
    const attention = first ? named : joined(apart(hidden, width), renamed(named, { x: "row" }));
    const behind = last ? [] : [handedOn];
    const parts = [attention, statePart(at, hidden, width, first), ...behind, choicePart(at, { experts, topK }, width)];
    return moeLayer(layer, { hidden, carried }, parts, { experts, topK, expert, shared: 0 });
  });
}

export const rmoe: ModelFamily = {
  name: "rmoe",
  architectures: ["RMoEForCausalLM"],
  program,
  expertTensors: mlpExpertTensors,
};
