// rmsNorm: with r = 1/rms and g = dOut * weight, dx = r g - x r^3 mean(g x).
import type { Op } from "../../../kernels/segment.ts";
import type { DeviceRule, Emitter } from "../rule.ts";

type RmsNorm = Extract<Op, { op: "rmsNorm" }>;

/** [parts, width]. */
function parts(op: RmsNorm, at: Emitter, value: string): string {
  return op.heads === undefined ? value : at.graph.reshape(value, [-1, at.width(op.x) / op.heads]);
}

function whole(op: RmsNorm, at: Emitter, value: string): string {
  return op.heads === undefined ? value : at.graph.reshape(value, [-1, at.width(op.x)]);
}

const mean = (at: Emitter, value: string): string => at.graph.node("ReduceMean", [value, at.graph.ints([1])], { keepdims: 1 });

/** [parts, 1] */
function inverseRms(op: RmsNorm, at: Emitter, x: string): string {
  const square = at.graph.add(mean(at, at.graph.mul(x, x)), at.graph.scalar(op.eps));
  return at.graph.node("Reciprocal", [at.graph.node("Sqrt", [square])]);
}

export const rmsNorm: DeviceRule<RmsNorm> = {
  on: "device",
  out: (op) => op.out,
  forward(op, at) {
    const x = parts(op, at, at.value(op.x));
    return whole(op, at, at.graph.mul(at.graph.mul(x, inverseRms(op, at, x)), at.value(op.weight)));
  },
  backward(op, at, dOut) {
    const { graph } = at;
    const x = parts(op, at, at.value(op.x));
    const d = parts(op, at, dOut);
    const r = inverseRms(op, at, x);
    const g = graph.mul(d, at.value(op.weight));
    const pull = graph.mul(graph.mul(graph.mul(r, r), r), mean(at, graph.mul(g, x)));
    at.give(op.x, whole(op, at, graph.sub(graph.mul(g, r), graph.mul(x, pull))));
    at.accumulate(op.weight, (sum) => graph.add(sum, graph.sum(graph.mul(graph.mul(d, x), r), 0, false)));
  },
};
