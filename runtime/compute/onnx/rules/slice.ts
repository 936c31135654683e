// slice: the gradient goes back to its place between zeros.
import type { Op } from "../../../kernels/segment.ts";
import type { DeviceRule } from "../rule.ts";

export const slice: DeviceRule<Extract<Op, { op: "slice" }>> = {
  on: "device",
  out: (op) => op.out,
  forward(op, at) {
    const heads = at.graph.reshape(at.value(op.x), [-1, at.width(op.x) / op.heads]);
    return at.graph.reshape(at.graph.lastAxis(heads, op.from, op.from + op.width), [-1, op.heads * op.width]);
  },
  backward(op, at, dOut) {
    const { graph } = at;
    const width = at.width(op.x) / op.heads;
    const pads = graph.ints([0, op.from, 0, width - op.from - op.width]);
    const padded = graph.node("Pad", [graph.reshape(dOut, [-1, op.width]), pads, graph.scalar(0)]);
    at.give(op.x, graph.reshape(padded, [-1, at.width(op.x)]));
  },
};
