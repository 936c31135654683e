// add: both sides get the gradient.
import type { Op } from "../../../kernels/segment.ts";
import type { DeviceRule } from "../rule.ts";

export const add: DeviceRule<Extract<Op, { op: "add" }>> = {
  on: "device",
  out: (op) => op.out,
  forward: (op, at) => at.graph.add(at.value(op.a), at.value(op.b)),
  backward(op, at, dOut) {
    at.give(op.a, dOut);
    at.give(op.b, dOut);
  },
};
