// The graphs of a segment: forward, and backward that recomputes it. Host ops come last.
import { AppError } from "../../../crds/common.ts";
import { kernelOf } from "../../kernels/index.ts";
import type { Op, Segment } from "../../kernels/segment.ts";
import { widthsOf } from "../../kernels/widths.ts";
import { Graph, rowsDimension } from "./graph.ts";
import { type Initializer, type Node, type OnnxGraph, onnxType, type ValueInfo, writeModel } from "./onnx-model.ts";
import type { BackwardEmitter, DeviceRule, Emitter } from "./rule.ts";
import { ruleOf } from "./rules/index.ts";

export const graphName = {
  input: (value: string): string => `x.${value}`,
  weight: (weight: string): string => `w.${weight}`,
  output: (value: string): string => `y.${value}`,
  outputGradient: (value: string): string => `d.${value}`,
  inputGradient: (value: string): string => `dx.${value}`,
  sum: (weight: string): string => `s.${weight}`,
  newSum: (weight: string): string => `n.${weight}`,
  gate: "gate",
  gateGradient: "dgate",
  targets: "targets",
  scales: "scales",
  losses: "losses",
} as const;

/** The segment's end: plain, rows with gates, or logits with a loss. */
export type Ending = "plain" | "gated" | "loss";

export interface Split {
  readonly device: readonly { readonly op: Op; readonly rule: DeviceRule }[];
  readonly host: readonly Op[];
  readonly inputs: readonly string[];
  readonly weights: readonly string[];
  readonly trained: readonly string[];
  /** Values that leave the device: the segment's outputs, and inputs of host ops. */
  readonly written: readonly string[];
}

/** Throws AppError `UnsupportedOp`, which names op and segment. */
export function splitOf(segment: Segment): Split {
  const refuse = (reason: string): never => {
    throw new AppError(`${segment.name}: ${reason}; train a model of another family`, {
      code: "UnsupportedOp",
      operation: "compiling a segment",
    });
  };
  const device: { op: Op; rule: DeviceRule }[] = [];
  const host: Op[] = [];
  const fromHost = new Set<string>();
  for (const op of segment.ops) {
    const rule = ruleOf(op);
    if (rule.on === "host") {
      host.push(op);
      for (const { name } of kernelOf(op).outputs(op)) fromHost.add(name);
      continue;
    }
    const early = kernelOf(op)
      .reads(op)
      .find((name) => fromHost.has(name));
    if (early !== undefined) refuse(`op ${op.op} reads ${early}, which the host computes`);
    const reason = rule.refuses?.(op);
    if (reason !== undefined) refuse(reason);
    device.push({ op, rule });
  }
  const read = new Set(device.flatMap(({ op }) => kernelOf(op).reads(op)));
  const weights = segment.weights.filter(({ name }) => read.has(name));
  const wanted = new Set([...segment.outputs.map(({ name }) => name), ...host.flatMap((op) => kernelOf(op).reads(op))]);
  return {
    device,
    host,
    inputs: segment.inputs.map(({ name }) => name).filter((name) => read.has(name)),
    weights: weights.map(({ name }) => name),
    trained: weights.filter(({ frozen }) => !frozen).map(({ name }) => name),
    written: device.map(({ op, rule }) => rule.out(op)).filter((name) => wanted.has(name)),
  };
}

function begin(segment: Segment, split: Split, tokens: number) {
  const graph = new Graph();
  const widths = widthsOf(segment);
  const shapes = new Map(segment.weights.map(({ name, shape }) => [name, shape]));
  const names = new Map<string, string>();
  const width = (name: string): number => widths.get(name) ?? 1;
  const shape = (weight: string): readonly number[] => shapes.get(weight) ?? [];
  for (const name of split.inputs) names.set(name, graph.input(graphName.input(name), [rowsDimension, width(name)]));
  for (const name of split.weights) names.set(name, graph.input(graphName.weight(name), shape(name)));
  const emitter: Emitter = { graph, tokens, value: (name) => names.get(name) as string, width, shape };
  for (const { op, rule } of split.device) names.set(rule.out(op), rule.forward(op, emitter));
  return emitter;
}

export function forwardGraph(segment: Segment, split: Split, tokens: number, ending: Ending): Uint8Array {
  const { graph, value, width } = begin(segment, split, tokens);
  if (ending === "loss") {
    const { losses } = crossEntropy(graph, value(split.written[0] as string), lossInputs(graph));
    graph.output(graphName.losses, losses, [rowsDimension, 1]);
  } else for (const name of split.written) graph.output(graphName.output(name), value(name), [rowsDimension, width(name)]);
  return graph.finish();
}

const lossInputs = (graph: Graph) => ({
  targets: graph.input(graphName.targets, [rowsDimension, 1], "i64"),
  scales: graph.input(graphName.scales, [rowsDimension, 1]),
});

class Tape {
  readonly gradients = new Map<string, string>();
  readonly sums = new Map<string, string>();
  readonly emitter: BackwardEmitter;

  constructor(emitter: Emitter, segment: Segment) {
    const { graph } = emitter;
    const weights = new Map(segment.weights.map((weight) => [weight.name, weight]));
    this.emitter = {
      ...emitter,
      give: (value, gradient) => {
        const sum = this.gradients.get(value);
        this.gradients.set(value, sum === undefined ? gradient : graph.add(sum, gradient));
      },
      accumulate: (weight, add) => {
        const found = weights.get(weight);
        if (found === undefined) throw new TypeError(`${weight} is no weight`);
        if (found.frozen) return;
        const sum = this.sums.get(weight) ?? graph.input(graphName.sum(weight), emitter.shape(weight));
        this.sums.set(weight, add(sum));
      },
    };
  }
}

function endOf(tape: Tape, split: Split, ending: Ending): void {
  const { graph, value, width } = tape.emitter;
  const last = split.written.at(-1) as string;
  if (ending === "loss") {
    const { losses, gradient } = crossEntropy(graph, value(last), lossInputs(graph));
    tape.gradients.set(last, gradient);
    graph.output(graphName.losses, losses, [rowsDimension, 1]);
    return;
  }
  for (const name of split.written) tape.gradients.set(name, graph.input(graphName.outputGradient(name), [rowsDimension, width(name)]));
  if (ending === "gated") gateOf(tape, split, last);
}

/** The gate's gradient is dOut . y of a row, where y is the expert's output. */
function gateOf(tape: Tape, split: Split, last: string): void {
  const { graph, value } = tape.emitter;
  const gate = graph.input(graphName.gate, [rowsDimension, 1]);
  const dOut = tape.gradients.get(last) as string;
  const end = split.device.at(-1);
  const short = end?.rule.out(end.op) === last ? end.rule.gated : undefined;
  if (end && short) {
    tape.gradients.delete(last);
    graph.output(graphName.gateGradient, short(end.op, tape.emitter, { dOut, gate }), [rowsDimension, 1]);
  } else {
    tape.gradients.set(last, graph.mul(dOut, gate));
    graph.output(graphName.gateGradient, graph.sum(graph.mul(dOut, value(last)), 1), [rowsDimension, 1]);
  }
}

export function backwardGraph(segment: Segment, split: Split, tokens: number, ending: Ending): Uint8Array {
  return writeModel(backward(segment, split, { tokens, ending }).graph);
}

export interface KeepingGraphs {
  readonly forward: OnnxGraph;
  readonly backward: OnnxGraph;
  readonly handed: readonly Handed[];
}

export function keepingGraphs(segment: Segment, split: Split, given: { readonly tokens: number; readonly ending: Ending }): KeepingGraphs {
  const { graph, emitter, widths } = backward(segment, split, given);
  const later = new Set(graph.outputs.map(({ name }) => name));
  for (const name of split.written) emitter.graph.output(graphName.output(name), emitter.value(name), [rowsDimension, emitter.width(name)]);
  const { first, second, handed } = parted(emitter.graph.whole(), later, widths);
  return { forward: first, backward: second, handed };
}

/** A backward graph with gates in two parts; rows of several micro-batches share the first. */
export interface SummingGraphs {
  readonly rows: Uint8Array;
  readonly sums: Uint8Array;
  readonly handed: readonly Handed[];
}

/** `keeping` builds them for a backward with stored values. */
export function summingGraphs(segment: Segment, split: Split, keeping?: KeepingGraphs): SummingGraphs {
  const { graph, widths } = backward(segment, split, { tokens: 1, ending: "gated" });
  const sums = new Set(split.trained.map(graphName.newSum));
  const { first, second, handed } = parted(keeping?.backward ?? graph, sums, widths);
  return { rows: writeModel(first), sums: writeModel(second), handed };
}

function backward(segment: Segment, split: Split, { tokens, ending }: { readonly tokens: number; readonly ending: Ending }) {
  const emitter = begin(segment, split, tokens);
  const tape = new Tape(emitter, segment);
  endOf(tape, split, ending);
  for (const { op, rule } of split.device.toReversed()) {
    const gradient = tape.gradients.get(rule.out(op));
    if (gradient !== undefined) rule.backward(op, tape.emitter, gradient);
  }
  const { graph, width, shape } = emitter;
  for (const name of split.inputs) {
    const gradient = tape.gradients.get(name);
    if (gradient === undefined) throw new TypeError(`${segment.name}: input ${name} has no gradient`);
    graph.output(graphName.inputGradient(name), gradient, [rowsDimension, width(name)]);
  }
  for (const [weight, sum] of tape.sums) graph.output(graphName.newSum(weight), sum, shape(weight));
  const widths = new Map([...tape.gradients].map(([value, gradient]) => [gradient, width(value)]));
  for (const { op, rule } of split.device) widths.set(emitter.value(rule.out(op)), width(rule.out(op)));
  return { graph: graph.whole(), emitter, widths };
}

interface LossInputs {
  /** [rows, 1], i64 */
  readonly targets: string;
  /** [rows, 1]: the factor of a row's loss; 0 for padding. */
  readonly scales: string;
}

/** `losses` [rows, 1] are not scaled; `gradient` [rows, vocab] is. */
function crossEntropy(graph: Graph, logits: string, { targets, scales }: LossInputs): { losses: string; gradient: string } {
  const logs = graph.node("LogSoftmax", [logits], { axis: -1 });
  const losses = graph.node("Neg", [graph.node("GatherElements", [logs, targets], { axis: 1 })]);
  const p = graph.node("Exp", [logs]);
  const atTarget = graph.sub(graph.node("GatherElements", [p, targets], { axis: 1 }), graph.scalar(1));
  const gradient = graph.mul(graph.node("ScatterElements", [p, targets, atTarget], { axis: 1 }), scales);
  return { losses, gradient };
}

/** A value [rows, width] for the second graph. */
export interface Handed {
  readonly name: string;
  readonly width: number;
}

interface Parted {
  readonly first: OnnxGraph;
  readonly second: OnnxGraph;
  /** Extra outputs of the first graph, and inputs of the second. */
  readonly handed: readonly Handed[];
}

function parted(graph: OnnxGraph, later: ReadonlySet<string>, widths: ReadonlyMap<string, number>): Parted {
  const makers = new Map(graph.nodes.map((node) => [node.output, node]));
  const outputs = (second: boolean) => graph.outputs.filter(({ name }) => later.has(name) === second);
  const names = (second: boolean): string[] => outputs(second).map(({ name }) => name);
  const early = reached(names(false), makers, () => false);
  const handed = new Map<string, Handed>();
  const given = (value: string): boolean => {
    const [maker, width] = [makers.get(value), widths.get(value)];
    if (maker === undefined || width === undefined || !early.has(maker)) return false;
    handed.set(value, { name: value, width });
    return true;
  };
  const late = reached(names(true), makers, given);
  const passed = [...handed.values()].map(({ name, width }): ValueInfo => ({ name, type: onnxType.f32, shape: [rowsDimension, width] }));
  return {
    first: part(graph, early, { inputs: [], outputs: [...outputs(false), ...passed] }),
    second: part(graph, late, { inputs: passed, outputs: outputs(true) }),
    handed: [...handed.values()],
  };
}

function reached(values: readonly string[], makers: ReadonlyMap<string, Node>, ends: (value: string) => boolean): Set<Node> {
  const found = new Set<Node>();
  const due = [...values];
  for (let value = due.pop(); value !== undefined; value = due.pop()) {
    const maker = makers.get(value);
    if (maker === undefined || found.has(maker) || ends(value)) continue;
    found.add(maker);
    due.push(...maker.inputs);
  }
  return found;
}

function part(graph: OnnxGraph, nodes: ReadonlySet<Node>, ends: Pick<OnnxGraph, "inputs" | "outputs">): OnnxGraph {
  const kept = graph.nodes.filter((node) => nodes.has(node));
  const read = new Set(kept.flatMap(({ inputs }) => inputs));
  const used = <T extends ValueInfo | Initializer>(all: readonly T[]): T[] => all.filter(({ name }) => read.has(name));
  return { nodes: kept, inputs: [...used(graph.inputs), ...ends.inputs], outputs: ends.outputs, initializers: used(graph.initializers) };
}

const rowsAtOnce = 512;
/** Products of more rows are cut into parts that are added one by one. */
const rowsInPlace = 128;

/** Rows of a multiple of four floats are aligned to vectors. */
const multiple = 4;
/** Threads get multiples of 16 columns, so each has more than 64; below, the library cuts sums differently. */
const columnsOfThread = 96;

export interface CallBounds {
  readonly rowsAtOnce: number;
  readonly rowsInPlace: number;
}

/** Zeros where bits would depend on neighbours: each micro-batch then needs a call of its own. */
export function callBounds({ weights }: Pick<Segment, "weights">, threads: number): CallBounds {
  const least = threads === 1 ? multiple : columnsOfThread * threads;
  const sizes = weights.flatMap(({ shape }) => shape);
  const steady = sizes.every((size) => size % multiple === 0 && size >= least);
  return steady ? { rowsAtOnce, rowsInPlace } : { rowsAtOnce: 0, rowsInPlace: 0 };
}
