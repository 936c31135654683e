// Ops that copy values to other places.
import { gradientOf, ints } from "../../../kernels/kernel.ts";
import type { Op } from "../../../kernels/segment.ts";
import type { DeviceRule, HostRule } from "../rule.ts";

/** On the host: gradient rows are added to the table's sum in token order. */
export const gather: HostRule<Extract<Op, { op: "gather" }>> = {
  on: "host",
  backward(op, { read, outputs, sums }) {
    const ids = ints(read(op.ids));
    const dOut = gradientOf(outputs, op.out);
    const sum = sums[op.table];
    if (sum === undefined) return {}; // the table is frozen
    const width = dOut.length / ids.length;
    for (const [n, id] of ids.entries()) {
      for (let from = n * width, to = id * width, d = 0; d < width; d++, from++, to++)
        sum[to] = (sum[to] as number) + (dOut[from] as number);
    }
    return {};
  },
};

/** The shared row's gradient is the sum over its heads. */
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

/** The gradient goes back to its place between zeros. */
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
