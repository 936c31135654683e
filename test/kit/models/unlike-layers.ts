// A small model whose layers are unlike in everything that a layer may differ in: a dense one first, then experts of two numbers, two
// shapes and two top-k, with a shared one beside them and with biases. No family: a program and a store, for tests of what runs them.

import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { plainRope } from "../../../runtime/kernels/rope.ts";
import type { DenseLayer, ModelProgram, MoeLayer, Op, Segment, WeightDecl } from "../../../runtime/kernels/segment.ts";
import { attentionPart, type DecoderDims, embedSegment, gatedFfnOps, headSegment } from "../../../runtime/models/decoder.ts";
import { denseWeights } from "../../../runtime/models/family.ts";
import { bytesOf } from "../../../runtime/weights/floats.ts";
import { layerShapes } from "../../../runtime/weights/layer-shapes.ts";
import type { ModelStore } from "../../../runtime/weights/store.ts";
import { openStore } from "../../../runtime/weights/store-reader.ts";
import { writeStore } from "../../../runtime/weights/store-writer.ts";
import { syntheticWeight } from "./synthetic.ts";

const hidden = 32;
const dims: DecoderDims = {
  ...{ layers: 4, hidden, ffn: 64, vocab: 53, heads: 2, kvHeads: 1, headDim: 16, maxContext: 64 },
  ...{ eps: 1e-5, ropeBase: 1e4, rope: plainRope(16, 1e4), window: 0, tied: false },
};

const f32 = (name: string, width: number) => ({ name, dtype: "f32" as const, width });
const x = [f32("x", hidden)];
const y = [f32("y", hidden)];

function gatedFfn(
  at: string,
  ffn: number,
): { readonly weights: readonly WeightDecl[]; readonly names: Record<"w1" | "w2" | "w3", string> } {
  const names = { w1: `${at}w1`, w2: `${at}w2`, w3: `${at}w3` };
  return {
    names,
    weights: [
      { name: names.w1, shape: [ffn, hidden] },
      { name: names.w2, shape: [hidden, ffn] },
      { name: names.w3, shape: [ffn, hidden] },
    ],
  };
}

function dense(layer: number): DenseLayer {
  const { weights, names } = gatedFfn(`${layer}.mlp.`, 96);
  const attention = attentionPart(dims, layer);
  const block: Segment = {
    ...{ name: `block.${layer}`, inputs: x, outputs: y, weights: [...attention.weights, ...weights] },
    ops: [...attention.ops, ...gatedFfnOps("f", names, "d"), { op: "add", a: "h", b: "d", out: "y" }],
  };
  return { kind: "dense", block };
}

/** The residual is called r, since what experts are added to is h. */
const renamed = (op: Op): Op =>
  Object.fromEntries(Object.entries(op).map(([key, value]) => [key, value === "h" && key !== "op" ? "r" : value])) as unknown as Op;

interface MoeOptions {
  readonly experts: number;
  readonly topK: number;
  readonly expert: Segment;
  readonly shared: number;
}

function moe(layer: number, { experts, topK, expert, shared }: MoeOptions): MoeLayer {
  const gate = `${layer}.gate`;
  const attention = attentionPart(dims, layer);
  const beside = gatedFfn(`${layer}.shared.`, 64);
  const withShared: readonly Op[] = [
    ...attention.ops.map(renamed),
    ...gatedFfnOps("f", beside.names, "s"),
    { op: "add", a: "r", b: "s", out: "h" },
  ];
  const block: Segment = {
    ...{ name: `block.${layer}`, inputs: x },
    outputs: [f32("h", hidden), f32("f", hidden), { name: "ids", dtype: "i32", width: topK }, f32("gates", topK)],
    weights: [...attention.weights, ...(shared > 0 ? beside.weights : []), { name: gate, shape: [experts, hidden] }],
    ops: [
      ...(shared > 0 ? withShared : attention.ops),
      { op: "matMul", x: "f", weight: gate, out: "logits" },
      { op: "route", logits: "logits", topK, normalize: true, ids: "ids", gates: "gates" },
    ],
  };
  return { kind: "moe", block, experts, topK, expert, shared };
}

const gated = gatedFfn("", 64);
const gatedExpert: Segment = {
  name: "expert.gated",
  inputs: x,
  outputs: y,
  weights: gated.weights,
  ops: gatedFfnOps("x", gated.names, "y"),
};

const biasedExpert: Segment = {
  ...{ name: "expert.biased", inputs: x, outputs: y },
  weights: [
    { name: "up", shape: [96, hidden] },
    { name: "up.bias", shape: [96] },
    { name: "down", shape: [hidden, 96] },
    { name: "down.bias", shape: [hidden] },
  ],
  ops: [
    { op: "matMul", x: "x", weight: "up", out: "u0" },
    { op: "addRow", x: "u0", row: "up.bias", out: "u" },
    { op: "siluMul", a: "u", b: "u", out: "m" },
    { op: "matMul", x: "m", weight: "down", out: "y0" },
    { op: "addRow", x: "y0", row: "down.bias", out: "y" },
  ],
};

/** Layers: dense; 4 experts, top-2, one shared; 6 biased experts of another size, top-1; as the second without shared ones. */
export function unlikeProgram(): ModelProgram {
  const { vocab, heads, kvHeads, headDim, maxContext } = dims;
  return {
    ...{
      family: "unlike",
      hidden,
      vocab,
      heads,
      kvHeads,
      headDim,
      valueDim: headDim,
      maxContext,
      embed: embedSegment(dims),
      head: headSegment(dims),
    },
    layers: [
      dense(0),
      moe(1, { experts: 4, topK: 2, expert: gatedExpert, shared: 1 }),
      moe(2, { experts: 6, topK: 1, expert: biasedExpert, shared: 0 }),
      moe(3, { experts: 4, topK: 2, expert: gatedExpert, shared: 0 }),
    ],
  };
}

/** A store of the program with seeded weights, f32 and iq4_nl; `architecture` is only there because an index names one. */
export async function unlikeStore(program: ModelProgram): Promise<ModelStore> {
  const dir = join(await mkdtemp(join(tmpdir(), "enodia-unlike-")), "store");
  const shapes = layerShapes(program);
  const spec = {
    ...{ config: {}, architecture: "MixtralForCausalLM", layers: shapes, hidden, codecs: ["f32", "iq4_nl"] as const, files: new Map() },
    dense: denseWeights(program).map(({ name, shape }) => ({
      ...{ name, dtype: "F32" as const, shape },
      read: async () => bytesOf(syntheticWeight(name, shape).data),
    })),
    expert: async (layer: number, expert: number) =>
      Object.fromEntries(
        (shapes[layer]?.matrices ?? []).map(({ name, shape }) => [name, syntheticWeight(`${layer}.${expert}.${name}`, shape).data]),
      ),
  };
  await writeStore(spec, { dir, overwrite: false, sources: [] });
  return openStore(dir);
}
