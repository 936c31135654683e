// The plan of a segment for CPUs: which ops go into ONNX graphs, which run in JavaScript, and what is split over threads. Pure;
// builds no graph itself (graph.ts). A gated FFN and a wide last projection are cut in `partsPerProgram` halves that run on two
// threads; the cut depends on shapes alone, never on the number of threads, so the bits of a row do not depend on the machine.
import { gateLogits, kernelOf } from "../../kernels/index.ts";
import type { Op, Segment } from "../../kernels/segment.ts";
import { blockSize, type PlainWeight, type PlainWeights } from "../../kernels/weights.ts";
import { widthsOf } from "../../kernels/widths.ts";
import { type BuiltGraph, buildGraph } from "./graph.ts";
import { type GraphSource, isJs } from "./lower.ts";
import { sliceColumns, sliceRows } from "./quantize.ts";

export const partsPerProgram = 2;
/** Projections narrower than this are not worth a second thread. */
const splitColumnsMin = 4096;

export type Stage =
  /** `tables`: the weights that the op reads. */
  | { readonly kind: "js"; readonly op: Op; readonly tables: readonly string[] }
  | { readonly kind: "graph"; readonly inputs: readonly string[]; readonly outputs: readonly string[]; readonly build: () => BuiltGraph };

export interface SplitProgram {
  readonly kind: "split";
  readonly input: string;
  readonly output: string;
  readonly widthIn: number;
  /** Columns of each part's output. */
  readonly widthPart: number;
  readonly widthOut: number;
  /** sum: parts are added in order; columns: parts lie side by side. */
  readonly combine: "sum" | "columns";
  readonly parts: readonly (() => BuiltGraph)[];
}

export interface StagedProgram {
  readonly kind: "staged";
  readonly widths: ReadonlyMap<string, number>;
  readonly stages: readonly Stage[];
}

export interface PlanOptions {
  readonly denseBits: 8 | 32;
}

export function planProgram(segment: Segment, weights: PlainWeights, options: PlanOptions): SplitProgram | StagedProgram {
  return splitFfn(segment, weights) ?? splitColumns(segment, weights, options) ?? staged(segment, weights, options);
}

function source(segment: Segment, weights: PlainWeights, options: PlanOptions, ops: readonly Op[] = segment.ops): GraphSource {
  const routerLogits = gateLogits(segment.ops);
  return { ops, inputs: [], outputs: [], widths: widthsOf(segment), weights, denseBits: options.denseBits, routerLogits };
}

/** The widths of a segment [matMul, matMul, siluMul, matMul] that can be cut along the FFN width; undefined for any other. */
export function ffnShape(segment: Segment): { readonly hidden: number; readonly ffn: number } | undefined {
  const [a, b, act, down] = segment.ops;
  if (segment.ops.length !== 4 || a?.op !== "matMul" || b?.op !== "matMul" || act?.op !== "siluMul" || down?.op !== "matMul")
    return undefined;
  if (a.x !== b.x || act.a !== a.out || act.b !== b.out || down.x !== act.out) return undefined;
  const shape = segment.weights.find(({ name }) => name === a.weight)?.shape;
  const [ffn, hidden] = [shape?.[0] ?? 0, shape?.[1] ?? 0];
  return ffn > 0 && ffn % (partsPerProgram * blockSize) === 0 ? { hidden, ffn } : undefined;
}

function splitFfn(segment: Segment, weights: PlainWeights): SplitProgram | undefined {
  const shape = ffnShape(segment);
  const [a, b, , down] = segment.ops;
  if (!shape || a?.op !== "matMul" || b?.op !== "matMul" || down?.op !== "matMul") return undefined;
  const part = shape.ffn / partsPerProgram;
  const build = (i: number) => () => {
    const [from, to] = [i * part, (i + 1) * part];
    const cut: Record<string, PlainWeight> = {
      [a.weight]: sliceRows(weights[a.weight] as PlainWeight, from, to),
      [b.weight]: sliceRows(weights[b.weight] as PlainWeight, from, to),
      [down.weight]: sliceColumns(weights[down.weight] as PlainWeight, from, to),
    };
    return buildGraph({ ...source(segment, cut, { denseBits: 32 }), inputs: [a.x], outputs: [down.out] });
  };
  return {
    kind: "split",
    input: a.x,
    output: down.out,
    widthIn: shape.hidden,
    widthPart: shape.hidden,
    widthOut: shape.hidden,
    combine: "sum",
    parts: Array.from({ length: partsPerProgram }, (_, i) => build(i)),
  };
}

function splitColumns(segment: Segment, weights: PlainWeights, options: PlanOptions): SplitProgram | undefined {
  const last = segment.ops.at(-1);
  const [input] = segment.inputs;
  if (last?.op !== "matMul" || segment.outputs.length !== 1 || segment.outputs[0]?.name !== last.out || segment.inputs.length !== 1)
    return undefined;
  const plain = segment.ops.slice(0, -1).every((op) => op.op === "rmsNorm");
  const width = segment.weights.find(({ name }) => name === last.weight)?.shape[0] ?? 0;
  if (!plain || input?.dtype !== "f32" || width < splitColumnsMin || width % partsPerProgram !== 0) return undefined;
  const part = width / partsPerProgram;
  const build = (i: number) => () => {
    const cut = { ...weights, [last.weight]: sliceRows(weights[last.weight] as PlainWeight, i * part, (i + 1) * part) };
    const from = source(segment, cut, options);
    return buildGraph({ ...from, inputs: [input.name], outputs: [last.out], widths: new Map(from.widths).set(last.out, part) });
  };
  return {
    kind: "split",
    input: input.name,
    output: last.out,
    widthIn: input.width,
    widthPart: part,
    widthOut: width,
    combine: "columns",
    parts: Array.from({ length: partsPerProgram }, (_, i) => build(i)),
  };
}

function staged(segment: Segment, weights: PlainWeights, options: PlanOptions): StagedProgram {
  const runs: Op[][] = [];
  for (const op of segment.ops) {
    const current = runs.at(-1);
    if (isJs(op) || !current || current.some(isJs)) runs.push([op]);
    else current.push(op);
  }
  const constants = new Set(segment.weights.map(({ name }) => name));
  const wanted = new Set(segment.outputs.map(({ name }) => name));
  const stages: Stage[] = [];
  for (const ops of runs.toReversed()) {
    const [first] = ops;
    const read = [...new Set(ops.flatMap((op) => kernelOf(op).reads(op)))];
    const inside = new Set(
      ops.flatMap((op) =>
        kernelOf(op)
          .outputs(op)
          .map(({ name }) => name),
      ),
    );
    const inputs = read.filter((name) => !inside.has(name) && !constants.has(name));
    if (first && isJs(first)) stages.push({ kind: "js", op: first, tables: read.filter((name) => constants.has(name)) });
    else {
      const outputs = [...inside].filter((name) => wanted.has(name));
      const from = source(segment, weights, options, ops);
      stages.push({ kind: "graph", inputs, outputs, build: () => buildGraph({ ...from, inputs, outputs }) });
    }
    for (const name of inputs) wanted.add(name);
  }
  return { kind: "staged", widths: widthsOf(segment), stages: stages.toReversed() };
}
