// Attention by groups of heads: which heads a rank has, a layer's block before and behind its attention, and a group's attention alone.
import { kernelOf } from "./index.ts";
import type { Op, Segment } from "./segment.ts";

export type Attention = Extract<Op, { op: "attention" }>;
export type Heads = Pick<Attention, "heads" | "kvHeads" | "headDim" | "valueDim">;

/** Consecutive heads of keys and values, and those of queries that read them. */
export interface HeadGroup {
  readonly from: number;
  readonly heads: number;
  readonly kvFrom: number;
  readonly kvHeads: number;
}

/** As even as heads of keys divide; where there are fewer of them than ranks, the last ranks have no group. */
export function headGroups({ heads, kvHeads }: Pick<Heads, "heads" | "kvHeads">, ranks: number): HeadGroup[] {
  const [groups, perKey] = [Math.min(ranks, kvHeads), heads / kvHeads];
  const endOf = (group: number): number => Math.ceil((group * kvHeads) / groups);
  return Array.from({ length: groups }, (_, group) => {
    const [kvFrom, end] = [endOf(group), endOf(group + 1)];
    return { from: kvFrom * perKey, heads: (end - kvFrom) * perKey, kvFrom, kvHeads: end - kvFrom };
  });
}

interface Columns {
  readonly from: number;
  readonly to: number;
}

/** What a group has of rows: values `from` to `to` of queries, keys, values and outputs. */
export function columnsOf({ headDim, valueDim }: Heads, { from, heads, kvFrom, kvHeads }: HeadGroup) {
  const span = (first: number, count: number, width: number): Columns => ({ from: first * width, to: (first + count) * width });
  return {
    q: span(from, heads, headDim),
    k: span(kvFrom, kvHeads, headDim),
    v: span(kvFrom, kvHeads, valueDim),
    out: span(from, heads, valueDim),
  };
}

/** Those values of each of the rows [n, width], which are put into `taken`. */
export function takeColumns(rows: Float32Array, width: number, { from, to }: Columns, taken?: Float32Array): Float32Array {
  const into = taken ?? new Float32Array((rows.length / width) * (to - from));
  for (let row = 0, at = 0; row < rows.length; row += width, at += to - from) into.set(rows.subarray(row + from, row + to), at);
  return into;
}

export function putColumns(rows: Float32Array, width: number, { from, to }: Columns, part: Float32Array): void {
  for (let row = 0, at = 0; row < rows.length; row += width, at += to - from) rows.set(part.subarray(at, at + to - from), row + from);
}

type Inputs = Segment["inputs"];
const input = (name: string, width: number): Inputs[number] => ({ name, dtype: "f32", width });

/** The attention of a group by itself; `among`: keys and values of all heads are given and kept. */
export function attentionOf(op: Attention, { heads, kvHeads, kvFrom }: HeadGroup, among = false): Segment {
  const { headDim, valueDim, among: _all, ...rest } = op;
  const given = among ? op.kvHeads : kvHeads;
  const own: Attention = { ...rest, headDim, valueDim, q: "q", k: "k", v: "v", heads, kvHeads, out: "out" };
  return {
    name: `attention.${op.layer}`,
    inputs: [input("q", heads * headDim), input("k", given * headDim), input("v", given * valueDim)],
    outputs: [input("out", heads * valueDim)],
    weights: [],
    ops: [among ? { ...own, among: { kvFrom, kvHeads: op.kvHeads } } : own],
  };
}

export interface SplitBlock {
  readonly attention: Attention;
  /** x -> q, k and v of the attention. */
  readonly before: Segment;
  /** x and the attention's output -> what the block gives. */
  readonly behind: Segment;
}

/** Undefined where what is behind the attention reads more of what is before it than the block's inputs, or heads have sinks. */
export function splitBlock(block: Segment): SplitBlock | undefined {
  const at = block.ops.findIndex(({ op }) => op === "attention");
  const attention = block.ops[at];
  if (attention?.op !== "attention" || attention.sinks !== undefined) return undefined;
  const [first, then] = [block.ops.slice(0, at), block.ops.slice(at + 1)];
  const made = new Set(
    first.flatMap((op) =>
      kernelOf(op)
        .outputs(op)
        .map(({ name }) => name),
    ),
  );
  const read = [...then.flatMap((op) => kernelOf(op).reads(op)), ...block.outputs.map(({ name }) => name)];
  if (read.some((name) => made.has(name)) || then.some((op) => kernelOf(op).kvLayer !== undefined)) return undefined;
  const { q, k, v, out, heads, kvHeads, headDim, valueDim } = attention;
  const weightsOf = (ops: readonly Op[]) => {
    const names = new Set(ops.flatMap((op) => kernelOf(op).reads(op)));
    return block.weights.filter(({ name }) => names.has(name));
  };
  const parts = { inputs: block.inputs, weights: weightsOf(first), ops: first };
  const outputs = [input(q, heads * headDim), input(k, kvHeads * headDim), input(v, kvHeads * valueDim)];
  const behind = { inputs: [...block.inputs, input(out, heads * valueDim)], outputs: block.outputs, weights: weightsOf(then), ops: then };
  return {
    attention,
    before: { name: `${block.name}.before`, outputs, ...parts },
    behind: { name: `${block.name}.behind`, ...behind },
  };
}
