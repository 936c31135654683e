// Rates of one layer in a model's shape on this machine's processor: CPU time of one thread, in turns.

import type { Backend, Compiled } from "../../../runtime/compute/backend.ts";
import { createBackend } from "../../../runtime/compute/index.ts";
import { ggmlBytes } from "../../../runtime/kernels/ggml/index.ts";
import { type Attention, headGroups } from "../../../runtime/kernels/head-groups.ts";
import { randomTensor } from "../../../runtime/kernels/random.ts";
import type { MoeLayer, Segment } from "../../../runtime/kernels/segment.ts";
import type { WeightData } from "../../../runtime/kernels/weights.ts";
import { programOf } from "../../../runtime/models/index.ts";
import { modelShapes } from "../../kit/models/random-gguf.ts";
import { log } from "../serve.ts";
import { median } from "../speed-rows.ts";
import { GroupAttention } from "./group-attention.ts";
import type { Rates, Shape } from "./model.ts";

const smolMoe = { layers: 30, hidden: 576, ffn: 1536, experts: 8, topK: 2, heads: 9, kvHeads: 3, headDim: 64 };
const architectures = { "smol-moe": "MixtralForCausalLM", olmoe: "OlmoeForCausalLM", "30b": "Qwen3MoeForCausalLM" };
const shapes = { "smol-moe": smolMoe, ...modelShapes };
export type ShapeName = keyof typeof shapes;
export const shapeNames = Object.keys(shapes) as ShapeName[];

export const shapeOf = (name: ShapeName): Shape => ({ ...shapes[name], valueDim: shapes[name].headDim });

/** Rows of a step. */
const stepRows = 256;
/** What attention is measured behind. */
const positions = [1_024, 8_192] as const;
/** A small number as an f16 scale. */
const blockByte = 0x11;

function layerOf(name: ShapeName): MoeLayer {
  const { hidden, ffn, experts, topK, heads, kvHeads, headDim } = shapes[name];
  const layer = programOf({
    ...{
      architectures: [architectures[name]],
      hidden_size: hidden,
      intermediate_size: ffn,
      moe_intermediate_size: ffn,
      num_hidden_layers: 1,
    },
    ...{ num_attention_heads: heads, num_key_value_heads: kvHeads, head_dim: headDim, max_position_embeddings: 65_536, vocab_size: 1_000 },
    ...{ num_experts_per_tok: topK, [name === "smol-moe" ? "num_local_experts" : "num_experts"]: experts, hidden_act: "silu" },
  }).layers[0];
  if (layer?.kind === "moe") return layer;
  throw new Error(`${name} has no experts`);
}

/** A block whose attention is given, as what comes before it and behind it. */
function withoutAttention(block: Segment): Segment {
  const attention = block.ops.find((op): op is Attention => op.op === "attention");
  if (attention === undefined) return block;
  const { q, k, v, out, heads, kvHeads, headDim, valueDim } = attention;
  const widths = Object.entries({ [q]: heads * headDim, [k]: kvHeads * headDim, [v]: kvHeads * valueDim });
  return {
    ...block,
    inputs: [...block.inputs, { name: out, dtype: "f32", width: heads * valueDim }],
    outputs: [...block.outputs, ...widths.map(([name, width]) => ({ name, dtype: "f32" as const, width }))],
    ops: block.ops.filter((op) => op !== attention),
  };
}

async function compiled(backend: Backend, segment: Segment, form: "f32" | "q4_0"): Promise<Compiled> {
  const weights = segment.weights.map(({ name, shape }): [string, WeightData] => {
    const values = shape.reduce((product, each) => product * each, 1);
    if (form !== "f32") return [name, { form, shape, data: new Uint8Array(ggmlBytes(form, values)).fill(blockByte) }];
    return [name, { form, shape, data: randomTensor(1, shape, 0.02).data }];
  });
  return backend.compile(segment, Object.fromEntries(weights));
}

const runs = 3;

/** Medians of CPU milliseconds of each, in turns. */
async function cpuMsOf(works: readonly (() => Promise<unknown>)[]): Promise<number[]> {
  const each = works.map((): number[] => []);
  for (let run = 0; run <= runs; run++)
    for (const [i, work] of works.entries()) {
      const before = process.cpuUsage();
      await work();
      const { user, system } = process.cpuUsage(before);
      if (run > 0) each[i]?.push((user + system) / 1000); // the first builds its graph
    }
  return each.map(median);
}

/** `sharings`: numbers of ranks that share heads. */
export async function ratesOf(name: ShapeName, sharings: readonly number[]): Promise<Rates> {
  const shape = shapeOf(name);
  const { block, expert, experts, topK } = layerOf(name);
  const backend = await createBackend("cpu", { threads: 1, denseBits: 8 });
  try {
    const dense = await compiled(backend, withoutAttention(block), "f32");
    const one = await compiled(backend, expert, "q4_0");
    const inputs = (segment: Segment, rows: number) =>
      Object.fromEntries(segment.inputs.map((input, i) => [input.name, randomTensor(i, [rows, input.width])]));
    const expertRows = Math.round((stepRows * topK) / experts);
    const [ofDense, ofExpert] = [inputs(withoutAttention(block), stepRows), inputs(expert, expertRows)];
    const [denseMs = 0, expertMs = 0] = await cpuMsOf([() => dense.run(ofDense), () => one.run(ofExpert)]);
    for (const program of [dense, one]) await program.dispose();
    const attention = await attentionRates(backend, shape, sharings);
    log(
      `${name}: ${(denseMs / stepRows).toFixed(3)} ms a row without attention, ${((expertMs * topK) / expertRows).toFixed(3)} of experts`,
    );
    return { dense: denseMs / stepRows, experts: (expertMs * topK) / expertRows, attention };
  } finally {
    await backend.close();
  }
}

async function attentionRates(backend: Backend, shape: Shape, sharings: readonly number[]): Promise<Rates["attention"]> {
  const [near, far] = positions;
  const groups = sharings.map((ranks) => headGroups(shape, ranks).toSorted((a, b) => b.heads - a.heads)[0]);
  const sides: GroupAttention[] = [];
  for (const group of groups) if (group) sides.push(await GroupAttention.open(backend, { shape, group, context: far + stepRows }));
  for (const side of sides) side.fill(far);
  const works = sides.flatMap((side) => {
    const piece = side.piece(stepRows, 1);
    return positions.map((past) => () => side.run(past, piece));
  });
  const ms = await cpuMsOf(works);
  for (const side of sides) await side.close();
  return new Map(
    sharings.map((ranks, i) => {
      const [first = 0, last = 0] = ms.slice(2 * i, 2 * i + 2).map((each) => each / stepRows);
      const position = (last - first) / (far - near);
      return [ranks, { first: Math.max(0, first - position * (near + stepRows / 2)), position }] as const;
    }),
  );
}
