// Floats that a model's passes hold beside its parameters, by which memory is reckoned. Pure.
import { keptValues } from "../../kernels/index.ts";
import type { ModelProgram } from "../../kernels/segment.ts";
import { widthsOf } from "../../kernels/widths.ts";

/** Floats that forward keeps of a token for backward: the layer's input, and what its block writes beside the rows that it adds to. */
export function keptFloats(layer: ModelProgram["layers"][number]): number {
  const { inputs, ops, outputs } = layer.block;
  const input = inputs.reduce((sum, { width }) => sum + width, 0);
  if (layer.kind === "dense") return input;
  const widths = widthsOf(layer.block);
  const names = new Set([...outputs.map(({ name }) => name), ...keptValues(ops)]);
  return [...names].reduce((sum, name) => sum + (name === "h" ? 0 : (widths.get(name) ?? 0)), input);
}
