// The lowering of ops on CPUs, a table by op: nodes of an ONNX graph, or its kernel's own forward in JavaScript where that is better.
// An op without a line in the table is refused by name when a model opens. On the way q, k and v projections are fused into one
// matrix, and add + rmsNorm into one node. Pure.
import type { Op, OpName } from "../../kernels/segment.ts";
import { blockSize, type PlainWeights } from "../../kernels/weights.ts";
import type { Capabilities } from "../backend.ts";
import { refuseVariant } from "../variants.ts";
import type { Builder } from "./builder.ts";
import { dims, type Matrix, quantizeInt8, stackRows } from "./quantize.ts";

export type OpOf<Name extends OpName> = Extract<Op, { op: Name }>;

export interface GraphSource {
  readonly ops: readonly Op[];
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  /** The width of every value. */
  readonly widths: ReadonlyMap<string, number>;
  readonly weights: PlainWeights;
  /** With 8 the weights of matMul become int8 blocks, but for a router's; with 32 they stay f32. */
  readonly denseBits: 8 | 32;
  /** Outputs of router projections, which stay f32. */
  readonly routerLogits: ReadonlySet<string>;
}

/** Outputs of a graph with attention beside its values: rows to store in the KV cache, [batch, tokens, kvHeads * headDim]. */
export const newKey = "new_key";
export const newValue = "new_value";

/** q, k and v that come from three projections of one value and go nowhere else. */
function packedProjections(source: GraphSource, op: OpOf<"attention">): readonly OpOf<"matMul">[] | undefined {
  const made = [op.q, op.k, op.v].map((name) => source.ops.find((other) => other.op === "matMul" && other.out === name));
  const reads = (name: string) =>
    source.ops.filter((other) => Object.values(other).includes(name) && !("out" in other && other.out === name));
  const [q, k, v] = made;
  if (q?.op !== "matMul" || k?.op !== "matMul" || v?.op !== "matMul") return undefined;
  if (q.x !== k.x || q.x !== v.x || [op.q, op.k, op.v].some((name) => reads(name).length > 1 || source.outputs.includes(name)))
    return undefined;
  return [q, k, v].every((projection) => source.weights[projection.weight]?.form === "f32") ? [q, k, v] : undefined;
}

function f32Of(source: GraphSource, name: string): Extract<Matrix, { form: "f32" }> {
  const weight = source.weights[name];
  if (weight?.form !== "f32") throw new TypeError(`${name} must be f32`);
  return weight;
}

/** A matrix of the dense part in the form that `denseBits` asks for. */
function densePolicy(source: GraphSource, matrix: Matrix, out: string): Matrix {
  const fits = matrix.form === "f32" && dims(matrix).k % blockSize === 0;
  return source.denseBits === 8 && fits && !source.routerLogits.has(out) ? quantizeInt8(matrix) : matrix;
}

/**
 * New keys and values leave the graph as the few rows that they are, and the caller stores them (kv.ts). Asked for the whole
 * present tensors, the Node binding would copy them in every call: megabytes of garbage per token, most of the collector's work.
 */
function attentionNodes(source: GraphSource, op: OpOf<"attention">, build: Builder): void {
  const packed = packedProjections(source, op);
  let [q, k, v] = [op.q, op.k, op.v];
  if (packed) {
    const stacked = stackRows(packed.map(({ weight }) => f32Of(source, weight)));
    build.matMul((packed[0] as OpOf<"matMul">).x, "qkv", densePolicy(source, stacked, "qkv"), "qkv.out");
    [q, k, v] = ["q.plain", "k.plain", newValue];
    const sizes = build.integers("widths", [op.heads * op.headDim, op.kvHeads * op.headDim, op.kvHeads * op.headDim]);
    build.nodes.push({ op: "Split", inputs: ["qkv.out", sizes], outputs: [q, k, v], attributes: { axis: -1 } });
  } else build.nodes.push({ op: "Identity", inputs: [v], outputs: [newValue] });
  const rotate = (x: string, heads: number, out: string): void => {
    const inputs = [x, "positions", "cos", "sin"];
    build.nodes.push({ op: "RotaryEmbedding", domain: "com.microsoft", inputs, outputs: [out], attributes: { num_heads: heads } });
  };
  rotate(q, op.heads, "q.rotated");
  rotate(k, op.kvHeads, newKey);
  build.nodes.push({
    op: "GroupQueryAttention",
    domain: "com.microsoft",
    inputs: ["q.rotated", newKey, newValue, "past_key", "past_value", "seqlens_k", "total_length"],
    outputs: [op.out, "present_key", "present_value"],
    attributes: {
      num_heads: op.heads,
      kv_num_heads: op.kvHeads,
      do_rotary: 0,
      scale: { float: op.scale },
      local_window_size: op.window > 0 ? op.window : -1,
    },
  });
}

/** add whose sum is normed next: one node that gives both. */
function fusedNorm(source: GraphSource, op: OpOf<"add">): OpOf<"rmsNorm"> | undefined {
  const next = source.ops[source.ops.indexOf(op) + 1];
  return next?.op === "rmsNorm" && next.x === op.out ? next : undefined;
}

function addNodes(source: GraphSource, op: OpOf<"add">, build: Builder): void {
  const norm = fusedNorm(source, op);
  if (!norm) {
    build.nodes.push({ op: "Add", inputs: [op.a, op.b], outputs: [op.out] });
    return;
  }
  build.nodes.push({
    op: "SkipSimplifiedLayerNormalization",
    domain: "com.microsoft",
    inputs: [op.a, op.b, build.vector(norm.weight, f32Of(source, norm.weight).data)],
    outputs: [norm.out, "", "", op.out],
    attributes: { epsilon: { float: norm.eps } },
  });
}

const rmsNormNodes: Lower<OpOf<"rmsNorm">> = (source, op, build) => {
  build.nodes.push({
    op: "SimplifiedLayerNormalization",
    inputs: [op.x, build.vector(op.weight, f32Of(source, op.weight).data)],
    outputs: [op.out],
    attributes: { axis: -1, stash_type: 1, epsilon: { float: op.eps } },
  });
};

const matMulNodes: Lower<OpOf<"matMul">> = (source, op, build) =>
  build.matMul(op.x, op.weight, densePolicy(source, source.weights[op.weight] as Matrix, op.out), op.out);

const siluMulNodes: Lower<OpOf<"siluMul">> = (_source, op, build) => {
  build.nodes.push({
    op: "QuickGelu",
    domain: "com.microsoft",
    inputs: [op.a],
    outputs: [`${op.out}.silu`],
    attributes: { alpha: { float: 1 } },
  });
  build.nodes.push({ op: "Mul", inputs: [`${op.out}.silu`, op.b], outputs: [op.out] });
};

type Lower<O extends Op = Op> = (source: GraphSource, op: O, build: Builder) => void;

/** The lowering of each op; with "js" the kernel's own forward runs between two graphs. */
const lowerings: { readonly [Name in OpName]?: "js" | Lower<OpOf<Name>> } = {
  gather: "js",
  route: "js",
  rmsNorm: rmsNormNodes,
  matMul: matMulNodes,
  attention: attentionNodes,
  add: addNodes,
  siluMul: siluMulNodes,
};

/** GroupQueryAttention takes heads of a multiple of so many values. */
const headDimStep = 8;

export const cpuCapabilities: Capabilities = {
  ops: new Set(Object.keys(lowerings)),
  refuses(op) {
    const variant = refuseVariant(op);
    if (variant !== undefined || op.op !== "attention" || op.headDim % headDimStep === 0) return variant;
    return `attention with a head size of ${op.headDim} is not computed by this backend, only multiples of ${headDimStep}`;
  },
};

export const isJs = (op: Op): boolean => lowerings[op.op] === "js";

/** The nodes of an op that runs in a graph. */
export function lowerOp(source: GraphSource, op: Op, build: Builder): void {
  (lowerings[op.op] as Lower)(source, op, build);
}

/** Ops of a graph that another op's nodes compute too. */
export function fusedOps(source: GraphSource): ReadonlySet<Op> {
  const fused = new Set<Op>();
  for (const op of source.ops) {
    if (op.op === "attention") for (const projection of packedProjections(source, op) ?? []) fused.add(projection);
    const norm = op.op === "add" ? fusedNorm(source, op) : undefined;
    if (norm) fused.add(norm);
  }
  return fused;
}
