// A backward graph in two: what rows need, whichever lanes they are of, and sums of weights' gradients, which are one lane's. The second is
// given values of the first, of which it takes the rows of one lane. Pure.
import { rowsDimension } from "./graph.ts";
import { type Initializer, type Node, type OnnxGraph, onnxType, type ValueInfo } from "./model.ts";

/** A value [rows, width] that the second graph is given. */
export interface Handed {
  readonly name: string;
  readonly width: number;
}

export interface Parted {
  readonly rows: OnnxGraph;
  readonly sums: OnnxGraph;
  /** Outputs of `rows` behind its own, and inputs of `sums`. */
  readonly handed: readonly Handed[];
}

/** `sums` are the names of outputs that the second graph has; `widths` those of values that it may be given: what leads from them to its
 *  outputs is computed there. */
export function parted(graph: OnnxGraph, sums: ReadonlySet<string>, widths: ReadonlyMap<string, number>): Parted {
  const makers = new Map(graph.nodes.map((node) => [node.output, node]));
  const ofRows = reached(graph.outputs.filter(({ name }) => !sums.has(name)).map(({ name }) => name), makers, () => false);
  const handed = new Map<string, Handed>();
  const given = (value: string): boolean => {
    const [maker, width] = [makers.get(value), widths.get(value)];
    if (maker === undefined || width === undefined || !ofRows.has(maker)) return false;
    handed.set(value, { name: value, width });
    return true;
  };
  const ofSums = reached(graph.outputs.filter(({ name }) => sums.has(name)).map(({ name }) => name), makers, given);
  const info = ({ name, width }: Handed): ValueInfo => ({ name, type: onnxType.f32, shape: [rowsDimension, width] });
  const passed = [...handed.values()].map(info);
  return {
    rows: part(graph, ofRows, { inputs: [], outputs: [...graph.outputs.filter(({ name }) => !sums.has(name)), ...passed] }),
    sums: part(graph, ofSums, { inputs: passed, outputs: graph.outputs.filter(({ name }) => sums.has(name)) }),
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
