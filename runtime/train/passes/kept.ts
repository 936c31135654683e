// Floats that passes hold beside parameters, for memory estimates.
import { keptValues } from "../../kernels/index.ts";
import type { ModelProgram } from "../../kernels/segment.ts";
import { widthsOf } from "../../kernels/widths.ts";

/** Floats per token that forward stores for backward: the layer's input, and what its block writes. */
export function keptFloats(layer: ModelProgram["layers"][number]): number {
  const { inputs, ops, outputs } = layer.block;
  const input = inputs.reduce((sum, { width }) => sum + width, 0);
  if (layer.kind === "dense") return input;
  const widths = widthsOf(layer.block);
  const names = new Set([...outputs.map(({ name }) => name), ...keptValues(ops)]);
  return [...names].reduce((sum, name) => sum + (name === "h" ? 0 : (widths.get(name) ?? 0)), input);
}
