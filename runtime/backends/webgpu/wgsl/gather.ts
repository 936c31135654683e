// gather on the device: one thread per element; a table beyond the binding limit is looked up panel by panel. Pure.
import type { Op } from "../../../kernels/segment.ts";
import { tablePanels } from "../layout.ts";
import { flatGroups, type Lower, value, weightId } from "./lower.ts";
import { reads, shader, workgroupSize, writes } from "./shader.ts";

/** Rows first .. first + count of the table are in this binding; ids outside it are another panel's. */
export function gatherWgsl(width: number, first: number, count: number): string {
  return shader({
    storage: [reads("ids", "i32"), reads("table"), writes("out")],
    groups: `(params.rows * ${width}u + ${workgroupSize - 1}u) / ${workgroupSize}u`,
    body: `  let at = group * ${workgroupSize}u + lane;
  if (at >= params.rows * ${width}u) { return; }
  let id = u32(ids[at / ${width}u]);
  if (id < ${first}u || id >= ${first + count}u) { return; }
  out[at] = table[(id - ${first}u) * ${width}u + at % ${width}u];`,
  });
}

export const lowerGather: Lower<Extract<Op, { op: "gather" }>> = (op, context) => {
  const { shape } = context.weight(op.table);
  const width = shape[1] ?? 1;
  const panels = tablePanels(context.weightF32(op.table), shape, context.bindingBytes);
  const id = (i: number) => `${op.table} rows ${i}`;
  return {
    dispatches: panels.map(({ first, columns }, i) => ({
      label: "gather",
      wgsl: gatherWgsl(width, first, columns),
      bindings: [value(op.ids), weightId(id(i)), value(op.out)],
      groups: (rows) => flatGroups(rows * width),
    })),
    uploads: Object.fromEntries(panels.map(({ parts }, i) => [id(i), parts[0] as Float32Array])),
    written: { [op.out]: width },
  };
};
