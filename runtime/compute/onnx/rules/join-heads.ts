// joinHeads: the shared row's gradient is the sum over its heads.
import type { Op } from "../../../kernels/segment.ts";
import type { DeviceRule } from "../rule.ts";

export const joinHeads: DeviceRule<Extract<Op, { op: "joinHeads" }>> = {
  on: "device",
  out: (op) => op.out,
  forward(op, at) {
    const { graph } = at;
    const [own, shared] = [at.width(op.x) / op.heads, at.width(op.shared)];
    const row = graph.node("Tile", [graph.reshape(at.value(op.shared), [-1, 1, shared]), graph.ints([1, op.heads, 1])]);
    const joined = graph.node("Concat", [graph.reshape(at.value(op.x), [-1, op.heads, own]), row], { axis: 2 });
    return graph.reshape(joined, [-1, op.heads * (own + shared)]);
  },
  backward(op, at, dOut) {
    const { graph } = at;
    const [own, shared] = [at.width(op.x) / op.heads, at.width(op.shared)];
    const d = graph.reshape(dOut, [-1, op.heads, own + shared]);
    at.give(op.x, graph.reshape(graph.lastAxis(d, 0, own), [-1, op.heads * own]));
    at.give(op.shared, graph.sum(graph.lastAxis(d, own, own + shared), 1, false));
  },
};
