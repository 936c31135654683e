// scale: the gradient is multiplied by the same number.
import type { Op } from "../../../kernels/segment.ts";
import type { DeviceRule } from "../rule.ts";

export const scale: DeviceRule<Extract<Op, { op: "scale" }>> = {
  on: "device",
  out: (op) => op.out,
  forward: (op, at) => at.graph.mul(at.value(op.x), at.graph.scalar(op.by)),
  backward: (op, at, dOut) => at.give(op.x, at.graph.mul(dOut, at.graph.scalar(op.by))),
};
