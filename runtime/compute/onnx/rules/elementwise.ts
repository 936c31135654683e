// Elementwise ops.
import type { Op } from "../../../kernels/segment.ts";
import type { DeviceRule, Emitter } from "../rule.ts";

/** Both sides get the gradient. */
export const add: DeviceRule<Extract<Op, { op: "add" }>> = {
  on: "device",
  out: (op) => op.out,
  forward: (op, at) => at.graph.add(at.value(op.a), at.value(op.b)),
  backward(op, at, dOut) {
    at.give(op.a, dOut);
    at.give(op.b, dOut);
  },
};

/** The row's gradient is the sum over rows. */
export const addRow: DeviceRule<Extract<Op, { op: "addRow" }>> = {
  on: "device",
  out: (op) => op.out,
  forward: (op, at) => at.graph.add(at.value(op.x), at.value(op.row)),
  backward(op, at, dOut) {
    at.give(op.x, dOut);
    at.accumulate(op.row, (sum) => at.graph.add(sum, at.graph.sum(dOut, 0, false)));
  },
};

/** The gradient is multiplied by the same number. */
export const scale: DeviceRule<Extract<Op, { op: "scale" }>> = {
  on: "device",
  out: (op) => op.out,
  forward: (op, at) => at.graph.mul(at.value(op.x), at.graph.scalar(op.by)),
  backward: (op, at, dOut) => at.give(op.x, at.graph.mul(dOut, at.graph.scalar(op.by))),
};

/** Silu' = s (1 + a (1 - s)) with s = sigmoid(a). */
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

type ClampedSwiglu = Extract<Op, { op: "clampedSwiglu" }>;

interface Parts {
  readonly g: string;
  /** u + 1 */
  readonly lifted: string;
  /** sigmoid(alpha g) */
  readonly s: string;
}

function partsOf(op: ClampedSwiglu, { graph, value }: Emitter): Parts {
  const limit = graph.scalar(op.limit);
  const g = graph.node("Min", [value(op.a), limit]);
  const u = graph.node("Clip", [value(op.b), graph.scalar(-op.limit), limit]);
  return {
    g,
    lifted: graph.add(u, graph.scalar(1)),
    s: graph.sigmoid(graph.mul(g, graph.scalar(op.alpha))),
  };
}

/** The derivative d/dg = (u + 1) s (1 + alpha g (1 - s)), where s = sigmoid(alpha g). */
export const clampedSwiglu: DeviceRule<ClampedSwiglu> = {
  on: "device",
  out: (op) => op.out,
  forward(op, at) {
    const { g, lifted, s } = partsOf(op, at);
    return at.graph.mul(at.graph.mul(lifted, g), s);
  },
  backward(op, at, dOut) {
    const { graph } = at;
    const { g, lifted, s } = partsOf(op, at);
    const [zero, one, limit] = [graph.scalar(0), graph.scalar(1), graph.scalar(op.limit)];
    const slope = graph.mul(s, graph.add(one, graph.mul(graph.mul(g, graph.scalar(op.alpha)), graph.sub(one, s))));
    const da = graph.mul(graph.mul(dOut, lifted), slope);
    at.give(op.a, graph.node("Where", [graph.node("Greater", [at.value(op.a), limit]), zero, da]));
    const outside = graph.node("Greater", [graph.node("Abs", [at.value(op.b)]), limit]);
    at.give(op.b, graph.node("Where", [outside, zero, graph.mul(graph.mul(dOut, g), s)]));
  },
};
