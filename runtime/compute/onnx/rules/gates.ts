// Ops that weigh values by gates.
import type { Op } from "../../../kernels/segment.ts";
import type { DeviceRule, Emitter } from "../rule.ts";

type Gru = Extract<Op, { op: "gru" }>;

interface Cell {
  readonly r: string;
  readonly z: string;
  readonly n: string;
  /** The factor of the reset gate. */
  readonly recalled: string;
  readonly state: string;
}

function cellOf(op: Gru, at: Emitter): Cell {
  const { graph, value } = at;
  const width = at.width(op.state);
  const part = (of: string, i: number): string => graph.lastAxis(value(of), i * width, (i + 1) * width);
  const gate = (i: number): string => graph.sigmoid(graph.add(part(op.given, i), part(op.held, i)));
  const [r, z, recalled] = [gate(0), gate(1), part(op.held, 2)];
  const n = graph.node("Tanh", [graph.add(part(op.given, 2), graph.mul(r, recalled))]);
  return { r, z, n, recalled, state: value(op.state) };
}

/** The output is n + z (state - n), where n is the new value and z the update. */
export const gru: DeviceRule<Gru> = {
  on: "device",
  out: (op) => op.out,
  forward(op, at) {
    const { z, n, state } = cellOf(op, at);
    return at.graph.add(n, at.graph.mul(z, at.graph.sub(state, n)));
  },
  backward(op, at, dOut) {
    const { graph, give } = at;
    const { r, z, n, recalled, state } = cellOf(op, at);
    const one = graph.scalar(1);
    const slope = (gate: string): string => graph.mul(gate, graph.sub(one, gate));
    const ofNew = graph.mul(graph.mul(dOut, graph.sub(one, z)), graph.sub(one, graph.mul(n, n)));
    const ofReset = graph.mul(graph.mul(ofNew, recalled), slope(r));
    const ofUpdate = graph.mul(graph.mul(dOut, graph.sub(state, n)), slope(z));
    const joined = (parts: readonly string[]): string => graph.node("Concat", parts, { axis: 1 });
    give(op.state, graph.mul(dOut, z));
    give(op.given, joined([ofReset, ofUpdate, ofNew]));
    give(op.held, joined([ofReset, ofUpdate, graph.mul(ofNew, r)]));
  },
};

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

/** With s the gate's softmax and t the gradient of each s summed over its parts, the logits have s (t - sum s t). */
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
