// clampedSwiglu: with s = sigmoid(alpha g), d/dg = (u + 1) s (1 + alpha g (1 - s)).
import type { Op } from "../../../kernels/segment.ts";
import type { DeviceRule, Emitter } from "../rule.ts";

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
