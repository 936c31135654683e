// rmsNorm on the device: one workgroup per row. Pure.
import type { Op } from "../../../kernels/segment.ts";
import { type Lower, value, weightId } from "./lower.ts";
import { f32, reads, reduction, shader, workgroupSize, writes } from "./shader.ts";

export function rmsNormWgsl(width: number, eps: number): string {
  return shader({
    storage: [reads("x"), reads("scale"), writes("out")],
    declarations: reduction("sumOf", (a, b) => `${a} + ${b}`),
    groups: "params.rows",
    body: `  let row = group * ${width}u;
  var squares = 0.0f;
  for (var d = lane; d < ${width}u; d += ${workgroupSize}u) { squares += x[row + d] * x[row + d]; }
  let inverse = 1.0f / sqrt(sumOf(lane, squares) / ${f32(width)} + ${f32(eps)});
  for (var d = lane; d < ${width}u; d += ${workgroupSize}u) { out[row + d] = x[row + d] * inverse * scale[d]; }`,
  });
}

export const lowerRmsNorm: Lower<Extract<Op, { op: "rmsNorm" }>> = (op, context) => {
  const width = context.width(op.x);
  return {
    dispatches: [
      {
        label: "rmsNorm",
        wgsl: rmsNormWgsl(width, op.eps),
        bindings: [value(op.x), weightId(op.weight), value(op.out)],
        groups: (rows) => rows,
      },
    ],
    uploads: { [op.weight]: context.weightF32(op.weight) },
    written: { [op.out]: width },
  };
};
