// siluMul: silu' = s (1 + a (1 - s)) with s = sigmoid(a).
import type { Op } from "../../../kernels/segment.ts";
import type { DeviceRule } from "../rule.ts";

export const siluMul: DeviceRule<Extract<Op, { op: "siluMul" }>> = {
  on: "device",
  out: (op) => op.out,
  forward(op, { graph, value }) {
    const a = value(op.a);
    return graph.mul(graph.mul(a, graph.sigmoid(a)), value(op.b));
  },
  backward(op, { graph, value, give }, dOut) {
    const [a, b, one] = [value(op.a), value(op.b), graph.scalar(1)];
    const s = graph.sigmoid(a);
    const slope = graph.mul(s, graph.add(one, graph.mul(a, graph.sub(one, s))));
    give(op.a, graph.mul(graph.mul(dOut, b), slope));
    give(op.b, graph.mul(dOut, graph.mul(a, s)));
  },
};
