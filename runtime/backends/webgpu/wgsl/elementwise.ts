// add and siluMul on the device: one thread per element. Pure.
import type { Op } from "../../../kernels/segment.ts";
import { flatGroups, type Lower, type LowerContext, type Lowering, value } from "./lower.ts";
import { reads, shader, workgroupSize, writes } from "./shader.ts";

function elementwiseWgsl(width: number, expression: string): string {
  return shader({
    storage: [reads("a"), reads("b"), writes("out")],
    groups: `(params.rows * ${width}u + ${workgroupSize - 1}u) / ${workgroupSize}u`,
    body: `  let at = group * ${workgroupSize}u + lane;
  if (at >= params.rows * ${width}u) { return; }
  ${expression}`,
  });
}

export const addWgsl = (width: number): string => elementwiseWgsl(width, "out[at] = a[at] + b[at];");

/** The sigmoid by exp of a negative number only: no overflow at either end. */
export const siluMulWgsl = (width: number): string =>
  elementwiseWgsl(
    width,
    `let e = exp(-abs(a[at]));
  out[at] = a[at] * (select(e, 1.0f, a[at] >= 0.0f) / (1.0f + e)) * b[at];`,
  );

type Pair = { readonly op: string; readonly a: string; readonly b: string; readonly out: string };

function lowerPair(op: Pair, context: LowerContext, wgsl: (width: number) => string): Lowering {
  const width = context.width(op.a);
  return {
    dispatches: [
      { label: op.op, wgsl: wgsl(width), bindings: [value(op.a), value(op.b), value(op.out)], groups: (rows) => flatGroups(rows * width) },
    ],
    uploads: {},
    written: { [op.out]: width },
  };
}

export const lowerAdd: Lower<Extract<Op, { op: "add" }>> = (op, context) => lowerPair(op, context, addWgsl);
export const lowerSiluMul: Lower<Extract<Op, { op: "siluMul" }>> = (op, context) => lowerPair(op, context, siluMulWgsl);
