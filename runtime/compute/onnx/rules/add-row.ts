// addRow: the row's gradient is the sum over rows.
import type { Op } from "../../../kernels/segment.ts";
import type { DeviceRule } from "../rule.ts";

export const addRow: DeviceRule<Extract<Op, { op: "addRow" }>> = {
  on: "device",
  out: (op) => op.out,
  forward: (op, at) => at.graph.add(at.value(op.x), at.value(op.row)),
  backward(op, at, dOut) {
    at.give(op.x, dOut);
    at.accumulate(op.row, (sum) => at.graph.add(sum, at.graph.sum(dOut, 0, false)));
  },
};
