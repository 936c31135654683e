// matMul: dx = dOut W; the product adds dW to its sum in place.
import type { Op } from "../../../kernels/segment.ts";
import type { DeviceRule } from "../rule.ts";

export const matMul: DeviceRule<Extract<Op, { op: "matMul" }>> = {
  on: "device",
  out: (op) => op.out,
  forward: (op, at) => at.graph.node("Gemm", [at.value(op.x), at.value(op.weight)], { transB: 1 }),
  backward(op, at, dOut) {
    at.give(op.x, at.graph.node("Gemm", [dOut, at.value(op.weight)]));
    at.accumulate(op.weight, (sum) => at.graph.node("Gemm", [dOut, at.value(op.x), sum], { transA: 1 }));
  },
  /** The gate's gradient of a row is t . x, and dx = gate * t, where t = dOut W. */
  gated(op, at, { dOut, gate }) {
    const { graph } = at;
    const t = graph.node("Gemm", [dOut, at.value(op.weight)]);
    at.give(op.x, graph.mul(t, gate));
    const scaled = graph.mul(dOut, gate);
    at.accumulate(op.weight, (sum) => graph.node("Gemm", [scaled, at.value(op.x), sum], { transA: 1 }));
    return graph.sum(graph.mul(t, at.value(op.x)), 1);
  },
};
