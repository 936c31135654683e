// mixHeads: with s the gate's softmax and t the gradient of each s summed over its parts, the logits have s (t - sum s
// t).
import type { Op } from "../../../kernels/segment.ts";
import type { DeviceRule, Emitter } from "../rule.ts";

type MixHeads = Extract<Op, { op: "mixHeads" }>;

interface Mix {
  /** [rows, shares] */
  readonly shares: string;
  /** The same as [rows, 1, shares, 1]. */
  readonly each: string;
  /** x as [rows, repeats, shares, width of a part]. */
  apart(value: string): string;
  whole(value: string): string;
}

function mixOf(op: MixHeads, { graph, value, width }: Emitter): Mix {
  const [all, count] = [width(op.x), width(op.logits)];
  const shares = graph.node("Softmax", [value(op.logits)], { axis: -1 });
  return {
    shares,
    each: graph.reshape(shares, [-1, 1, count, 1]),
    apart: (of) => graph.reshape(of, [-1, op.parts / count, count, all / op.parts]),
    whole: (of) => graph.reshape(of, [-1, all]),
  };
}

export const mixHeads: DeviceRule<MixHeads> = {
  on: "device",
  out: (op) => op.out,
  forward(op, at) {
    const { each, apart, whole } = mixOf(op, at);
    return whole(at.graph.mul(apart(at.value(op.x)), each));
  },
  backward(op, at, dOut) {
    const { graph } = at;
    const { shares, each, apart, whole } = mixOf(op, at);
    const d = apart(dOut);
    at.give(op.x, whole(graph.mul(d, each)));
    const given = graph.sum(graph.sum(graph.mul(d, apart(at.value(op.x))), 3, false), 1, false);
    at.give(op.logits, graph.mul(shares, graph.sub(given, graph.sum(graph.mul(shares, given), 1))));
  },
};
