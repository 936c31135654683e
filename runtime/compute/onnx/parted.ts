// Divides a graph in two, of which the second gets values of the first: forward and backward, or rows of all micro-batches and the sums
// of one.
import { rowsDimension } from "./graph.ts";
import { type Initializer, type Node, type OnnxGraph, onnxType, type ValueInfo } from "./model.ts";

/** A value [rows, width] for the second graph. */
export interface Handed {
  readonly name: string;
  readonly width: number;
}

export interface Parted {
  readonly first: OnnxGraph;
  readonly second: OnnxGraph;
  /** Extra outputs of the first graph, and inputs of the second. */
  readonly handed: readonly Handed[];
}

export function parted(graph: OnnxGraph, later: ReadonlySet<string>, widths: ReadonlyMap<string, number>): Parted {
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
