// A graph in two, of which the second is given values of the first: forward and what backward keeps of it, or what rows need, whichever
// lanes they are of, and sums of weights' gradients, which are one lane's.
import { rowsDimension } from "./graph.ts";
import { type Initializer, type Node, type OnnxGraph, onnxType, type ValueInfo } from "./model.ts";

/** A value [rows, width] that the second graph is given. */
export interface Handed {
  readonly name: string;
  readonly width: number;
}

export interface Parted {
  readonly first: OnnxGraph;
  readonly second: OnnxGraph;
  /** Outputs of the first behind its own, and inputs of the second. */
  readonly handed: readonly Handed[];
}

/** `later` are the names of outputs that the second graph has. */
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

/** Nodes that lead to the values, as far back as those where `ends` says so. */
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

/** The nodes in their order, with what they read. */
function part(graph: OnnxGraph, nodes: ReadonlySet<Node>, ends: Pick<OnnxGraph, "inputs" | "outputs">): OnnxGraph {
  const kept = graph.nodes.filter((node) => nodes.has(node));
  const read = new Set(kept.flatMap(({ inputs }) => inputs));
  const used = <T extends ValueInfo | Initializer>(all: readonly T[]): T[] => all.filter(({ name }) => read.has(name));
  return { nodes: kept, inputs: [...used(graph.inputs), ...ends.inputs], outputs: ends.outputs, initializers: used(graph.initializers) };
}
