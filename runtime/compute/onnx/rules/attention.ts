// Attention over whole sequences from position 0. Its backward recomputes the softmax p, uses dS = p (dP - sum p dP), and rotates queries
// and keys back.
import { ropeTables } from "../../../kernels/rope.ts";
import type { Op, Rope } from "../../../kernels/segment.ts";
import type { Graph } from "../graph.ts";
import type { DeviceRule, Emitter } from "../rule.ts";

type Attention = Extract<Op, { op: "attention" }>;

/** Minus infinity, without the risk of NaN. */
const masked = -1e30;

/** Tables of the rotation out = x * cos + partner(x) * sin; values that do not rotate have sine 0. */
function rotationTables(tokens: number, rope: Rope, width: number) {
  const tables = ropeTables(tokens, rope);
  const pairs = rope.frequencies.length;
  const cos = new Float32Array(tokens * width).fill(1);
  const sin = new Float32Array(tokens * width);
  const partner = Array.from({ length: width }, (_, d) => d);
  for (let i = 0; i < pairs; i++) {
    const first = rope.from + (rope.interleaved ? 2 * i : i);
    const second = first + (rope.interleaved ? 1 : pairs);
    partner[first] = second;
    partner[second] = first;
    for (let p = 0; p < tokens; p++) {
      cos[p * width + first] = cos[p * width + second] = tables.cos[p * pairs + i] as number;
      sin[p * width + first] = -(tables.sin[p * pairs + i] as number);
      sin[p * width + second] = tables.sin[p * pairs + i] as number;
    }
  }
  return { cos, sin, partner };
}

/** Rotates heads [sequences, tokens, heads, width]. */
type Rotate = (value: string, back?: boolean) => string;

function rotator(op: Attention, { graph, tokens }: Emitter): Rotate {
  const { cos, sin, partner } = rotationTables(tokens, op.rope, op.headDim);
  const shape = [1, tokens, 1, op.headDim];
  const [cosine, sine, minus] = [
    graph.floats(shape, cos),
    graph.floats(shape, sin),
    graph.floats(
      shape,
      sin.map((value) => -value),
    ),
  ];
  const runs = runsOf(partner);
  const order = runs.length > runsMax ? graph.ints(partner) : undefined;
  const partners = (value: string): string => {
    if (order !== undefined) return graph.node("Gather", [value, order], { axis: 3 });
    const parts = runs.map(({ from, to }) => graph.lastAxis(value, from, to));
    return parts.length === 1 ? (parts[0] as string) : graph.node("Concat", parts, { axis: 3 });
  };
  return (value, back = false) => graph.add(graph.mul(value, cosine), graph.mul(partners(value), back ? minus : sine));
}

const runsMax = 8;

function runsOf(places: readonly number[]): { from: number; to: number }[] {
  const runs: { from: number; to: number }[] = [];
  for (const place of places) {
    const last = runs.at(-1);
    if (last?.to === place) last.to = place + 1;
    else runs.push({ from: place, to: place + 1 });
  }
  return runs;
}

/** [tokens, tokens]: 0 where a query sees a key. */
function maskOf({ window }: Attention, tokens: number): Float32Array {
  return Float32Array.from({ length: tokens * tokens }, (_, i) => {
    const [query, key] = [Math.floor(i / tokens), i % tokens];
    return key > query || (window > 0 && key <= query - window) ? masked : 0;
  });
}

/** Queries by KV head, those of a group below each other. */
interface Sizes {
  readonly group: number;
  readonly tokens: number;
}

/** [rows, heads * width] -> [sequences, kvHeads, group * tokens, width], after rotation by `turn`. */
function spread(op: Attention, at: Emitter, value: string, rotate?: Rotate): string {
  const { graph, tokens } = at;
  const group = op.heads / op.kvHeads;
  const width = rotate ? op.headDim : op.valueDim;
  const heads = graph.reshape(value, [-1, tokens, op.heads, width]);
  const split = graph.reshape(rotate ? rotate(heads) : heads, [-1, tokens, op.kvHeads, group, width]);
  return graph.reshape(graph.transpose(split, [0, 2, 3, 1, 4]), [-1, op.kvHeads, group * tokens, width]);
}

/** The inverse without the rotation: [sequences, tokens, heads, width]. */
function gathered(graph: Graph, op: Attention, value: string, { group, tokens, width }: Sizes & { readonly width: number }): string {
  const split = graph.transpose(graph.reshape(value, [-1, op.kvHeads, group, tokens, width]), [0, 3, 1, 2, 4]);
  return graph.reshape(split, [-1, tokens, op.heads, width]);
}

interface Work extends Sizes {
  readonly rotate: Rotate;
  readonly q: string; // rotated and scaled, [sequences, kvHeads, group * tokens, headDim]
  readonly k: string; // rotated, [sequences, kvHeads, tokens, headDim]
  readonly v: string; // [sequences, kvHeads, tokens, valueDim]
  readonly p: string; // [sequences, kvHeads, group * tokens, tokens]
  readonly pSink: string | undefined; // [sequences, kvHeads, group, tokens, 1]
}

const works = new WeakMap<Graph, Map<Attention, Work>>();

function work(op: Attention, at: Emitter): Work {
  const known = works.get(at.graph) ?? new Map<Attention, Work>();
  works.set(at.graph, known);
  const found = known.get(op) ?? workOf(op, at);
  known.set(op, found);
  return found;
}

function workOf(op: Attention, at: Emitter): Work {
  const { graph, tokens } = at;
  const rotate = rotator(op, at);
  const group = op.heads / op.kvHeads;
  const q = graph.mul(spread(op, at, at.value(op.q), rotate), graph.scalar(op.scale));
  const k = graph.transpose(rotate(graph.reshape(at.value(op.k), [-1, tokens, op.kvHeads, op.headDim])), [0, 2, 1, 3]);
  const v = graph.transpose(graph.reshape(at.value(op.v), [-1, tokens, op.kvHeads, op.valueDim]), [0, 2, 1, 3]);
  const scores = graph.node("MatMul", [q, graph.transpose(k, [0, 1, 3, 2])]);
  const split = graph.reshape(scores, [-1, op.kvHeads, group, tokens, tokens]);
  const seen = graph.add(split, graph.floats([tokens, tokens], maskOf(op, tokens)));
  const flat = (p: string): string => graph.reshape(p, [-1, op.kvHeads, group * tokens, tokens]);
  const sizes = { rotate, group, tokens, q, k, v };
  if (op.sinks === undefined) return { ...sizes, p: flat(graph.node("Softmax", [seen], { axis: -1 })), pSink: undefined };
  const blank = graph.mul(graph.lastAxis(seen, 0, 1), graph.scalar(0));
  const sinks = graph.add(blank, graph.reshape(at.value(op.sinks), [1, op.kvHeads, group, 1, 1]));
  const p = graph.node("Softmax", [graph.node("Concat", [seen, sinks], { axis: 4 })], { axis: -1 });
  return { ...sizes, p: flat(graph.lastAxis(p, 0, tokens)), pSink: graph.lastAxis(p, tokens, tokens + 1) };
}

/** sum p dP and dP - sum p dP, corrected once: where a query sees hardly more than one key, the difference cancels almost all digits. */
function means(op: Attention, at: Emitter, dP: string): readonly [mean: string, far: string] {
  const { graph, tokens } = at;
  const { p, pSink, group } = work(op, at);
  const first = graph.sum(graph.mul(p, dP), 3);
  const near = graph.sub(dP, first);
  const seen = graph.sum(graph.mul(p, near), 3);
  const drawn = pSink && graph.mul(graph.reshape(pSink, [-1, op.kvHeads, group * tokens, 1]), first); // a sink's dP is 0
  const rest = drawn === undefined ? seen : graph.sub(seen, drawn);
  return [graph.add(first, rest), graph.sub(near, rest)];
}

export const attention: DeviceRule<Attention> = {
  on: "device",
  out: (op) => op.out,
  forward(op, at) {
    const { p, v, group, tokens } = work(op, at);
    const out = gathered(at.graph, op, at.graph.node("MatMul", [p, v]), { group, tokens, width: op.valueDim });
    return at.graph.reshape(out, [-1, op.heads * op.valueDim]);
  },
  backward(op, at, dOut) {
    const { graph, tokens } = at;
    const { rotate, group, q, k, v, p, pSink } = work(op, at);
    const d = spread(op, at, dOut);
    const dP = graph.node("MatMul", [d, graph.transpose(v, [0, 1, 3, 2])]);
    const [mean, far] = means(op, at, dP);
    const dS = graph.mul(p, far);
    const dQ = graph.mul(graph.node("MatMul", [dS, k]), graph.scalar(op.scale));
    const dK = graph.node("MatMul", [graph.transpose(dS, [0, 1, 3, 2]), q]);
    const dV = graph.node("MatMul", [graph.transpose(p, [0, 1, 3, 2]), d]);
    const back = (value: string): string => graph.transpose(value, [0, 2, 1, 3]);
    at.give(op.q, graph.reshape(rotate(gathered(graph, op, dQ, { group, tokens, width: op.headDim }), true), [-1, op.heads * op.headDim]));
    at.give(op.k, graph.reshape(rotate(back(dK), true), [-1, op.kvHeads * op.headDim]));
    at.give(op.v, graph.reshape(back(dV), [-1, op.kvHeads * op.valueDim]));
    if (op.sinks === undefined || pSink === undefined) return;
    const drawn = graph.mul(pSink, graph.reshape(mean, [-1, op.kvHeads, group, tokens, 1]));
    const summed = graph.node("ReduceSum", [drawn, graph.ints([0, 3, 4])], { keepdims: 0 });
    at.accumulate(op.sinks, (sum) => graph.sub(sum, graph.reshape(summed, [op.heads])));
  },
};
