// Checks a model family's program: values are written before they are read, and segments have the expected inputs and outputs.
import { AppError } from "../../crds/common.ts";
import { type ExpertGrid, gridOf } from "../placement/grid.ts";
import { kernelOf } from "./index.ts";
import type { DType, Layer, ModelProgram, Segment } from "./segment.ts";
import { valuesOf, widthBehind, widthInto } from "./widths.ts";

type Values = readonly (readonly [name: string, dtype: DType, width: number])[];

/** Every segment once. */
export function segmentsOf(program: ModelProgram): readonly Segment[] {
  const layers = program.layers.flatMap((layer) => (layer.kind === "moe" ? [layer.block, layer.expert] : [layer.block]));
  return [...new Set([program.embed, ...layers, program.head])];
}

export function expertGrid(program: Pick<ModelProgram, "layers">): ExpertGrid {
  return gridOf(program.layers.map((layer) => (layer.kind === "moe" ? layer.experts : 0)));
}

/** Throws AppError `InvalidProgram`, which names the segment. */
export function checkProgram(program: ModelProgram): void {
  const { hidden, vocab, embed, head, layers } = program;
  const x: Values = [["x", "f32", hidden]];
  check(embed, [["ids", "i32", 0]], x);
  check(head, x, [["logits", "f32", vocab]]);
  let width = hidden;
  for (const [index, layer] of layers.entries()) {
    if (widthInto(layer) !== width) throw invalid(layer.block.name, `is given rows of ${width} values and takes ${widthInto(layer)}`);
    width = widthBehind(layer);
    if (layer.kind === "dense") check(layer.block, x, [["y", "f32", hidden]]);
    else checkMoe(layer, hidden, x);
    checkKvLayers(layer.block, index);
  }
  if (width !== hidden) throw invalid(head.name, `is given rows of ${width} values and takes ${hidden}`);
}

function checkMoe(layer: Extract<Layer, { kind: "moe" }>, hidden: number, x: Values): void {
  const { block, expert, experts, topK, shared, free } = layer;
  if (widthBehind(layer) < hidden) throw invalid(block.name, `has rows of ${widthBehind(layer)} values, fewer than its experts' ${hidden}`);
  check(
    block,
    [["x", "f32", widthInto(layer)]],
    [
      ["h", "f32", widthBehind(layer)],
      ["f", "f32", hidden],
      ["ids", "i32", topK],
      ["gates", "f32", topK],
    ],
  );
  if (free !== undefined && !(Number.isInteger(free.count) && free.count > 0 && free.balanceWeight > 0))
    throw invalid(block.name, `${free.count} free experts of weight ${free.balanceWeight}`);
  check(expert, x, [["y", "f32", hidden]]);
  if (!Number.isInteger(shared) || shared < 0) throw invalid(block.name, `${shared} shared experts`);
  if (topK < 1 || topK > experts) throw invalid(block.name, `top-${topK} of ${experts} experts`);
  if (usesKv(expert).length > 0) throw invalid(expert.name, "an expert cannot use the KV cache: its rows come from any rank");
}

const usesKv = (segment: Segment): number[] => segment.ops.flatMap((op) => kernelOf(op).kvLayer?.(op) ?? []);

function checkKvLayers(block: Segment, index: number): void {
  const other = usesKv(block).find((layer) => layer !== index);
  if (other !== undefined) throw invalid(block.name, `uses the KV cache of layer ${other}`);
}

function check(segment: Segment, inputs: Values, outputs: Values): void {
  const names = segment.weights.map(({ name }) => name);
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice !== undefined) throw invalid(segment.name, `declares weight ${twice} twice`);
  const computed = valuesOf(segment);
  for (const [what, declared, wanted] of [["input", segment.inputs, inputs] as const, ["output", segment.outputs, outputs] as const]) {
    if (declared.length !== wanted.length) throw invalid(segment.name, `has ${declared.length} ${what}s, not ${wanted.length}`);
    for (const [name, dtype, width] of wanted) {
      const said = [declared.find((each) => each.name === name), computed.get(name)];
      if (said.some((value) => value?.dtype !== dtype || value.width !== width))
        throw invalid(segment.name, `${what} ${name} is not ${dtype} of ${width} values a row`);
    }
  }
}

function invalid(segment: string, message: string): AppError {
  return new AppError(`${segment}: ${message}`, { code: "InvalidProgram", operation: "reading a program" });
}
