// A run of ops becomes one ONNX graph. Pure: weights in, model bytes out.
// Fused on the way: q, k and v projections into one matrix, add + rmsNorm into one node, silu * b. Rows are [batch, tokens, width]
// in graphs with attention (GroupQueryAttention wants three axes), [n, width] elsewhere.
import type { Op, Segment } from "../../kernels/segment.ts";
import { blockSize, type Weights } from "../../kernels/weights.ts";
import { type Graph, type Initializer, type Node, type OnnxModel, onnxType, type ValueInfo, writeModel } from "./onnx.ts";
import { dims, type Matrix, packZeroPoints, quantizeInt8, stackRows, transpose } from "./quantize.ts";

type OpOf<Name extends Op["op"]> = Extract<Op, { op: Name }>;

export interface GraphSource {
  readonly ops: readonly Op[];
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  /** Width of every value. */
  readonly widths: ReadonlyMap<string, number>;
  readonly weights: Weights;
  /** 8: weights of matMul become int8 blocks, but for a router's; 32: they stay f32. */
  readonly denseBits: 8 | 32;
  /** Outputs of router projections, which stay f32. */
  readonly routerLogits: ReadonlySet<string>;
}

export interface BuiltGraph extends OnnxModel {
  /** Bytes of the weights as handed over; resident bytes follow from them (memory.ts). */
  readonly f32Bytes: number;
  readonly quantizedBytes: number;
  readonly attention: OpOf<"attention"> | undefined;
}

/** Outputs of a graph with attention beside its values: rows to store in the KV cache, [batch, tokens, kvHeads * headDim]. */
export const newKey = "new_key";
export const newValue = "new_value";

const bytesOf = (array: Float32Array | Uint8Array | BigInt64Array): Uint8Array =>
  new Uint8Array(array.buffer, array.byteOffset, array.byteLength);

class Builder {
  readonly nodes: Node[] = [];
  readonly initializers: Initializer[] = [];
  f32Bytes = 0;
  quantizedBytes = 0;
  readonly #rank3: boolean;

  constructor(rank3: boolean) {
    this.#rank3 = rank3;
  }

  matMul(x: string, name: string, matrix: Matrix, out: string): void {
    switch (matrix.form) {
      case "f32":
        this.#plain(x, name, matrix, out);
        break;
      case "int4":
        this.#blocks({ x, name, out }, matrix, 4, packZeroPoints(matrix.z, dims(matrix).n));
        break;
      case "int8":
        this.#blocks({ x, name, out }, matrix, 8);
        break;
      default:
        matrix satisfies never;
    }
  }

  #plain(x: string, name: string, matrix: Extract<Matrix, { form: "f32" }>, out: string): void {
    const { n, k } = dims(matrix);
    this.f32Bytes += matrix.data.byteLength;
    if (this.#rank3) {
      this.#add(name, onnxType.f32, [k, n], transpose(matrix.data, n, k));
      this.nodes.push({ op: "MatMul", inputs: [x, name], outputs: [out] });
    } else {
      this.#add(name, onnxType.f32, [n, k], matrix.data);
      this.nodes.push({ op: "Gemm", inputs: [x, name], outputs: [out], attributes: { transB: 1 } });
    }
  }

  /** A matrix in blocks of `bits` a value; without zero points, values are around the middle of their range. */
  #blocks(
    { x, name, out }: { readonly x: string; readonly name: string; readonly out: string },
    matrix: Exclude<Matrix, { form: "f32" }>,
    bits: 4 | 8,
    zeroPoints?: Uint8Array,
  ): void {
    const { n, k } = dims(matrix);
    const blocks = k / blockSize;
    const inputs = [x, `${name}.q`, `${name}.s`];
    this.#add(`${name}.q`, onnxType.u8, [n, blocks, matrix.q.length / n / blocks], matrix.q);
    this.#add(`${name}.s`, onnxType.f32, [n * blocks], matrix.s);
    this.quantizedBytes += matrix.q.byteLength + matrix.s.byteLength;
    if (zeroPoints) {
      this.#add(`${name}.z`, onnxType.u8, [zeroPoints.length], zeroPoints);
      this.quantizedBytes += zeroPoints.byteLength;
      inputs.push(`${name}.z`);
    }
    const attributes = { K: k, N: n, bits, block_size: blockSize, accuracy_level: 4 };
    this.nodes.push({ op: "MatMulNBits", domain: "com.microsoft", inputs, outputs: [out], attributes });
  }

  vector(name: string, data: Float32Array): string {
    this.f32Bytes += data.byteLength;
    this.#add(name, onnxType.f32, [data.length], data);
    return name;
  }

  integers(name: string, values: readonly number[]): string {
    this.#add(name, onnxType.i64, [values.length], BigInt64Array.from(values, BigInt));
    return name;
  }

  #add(name: string, type: Initializer["type"], shape: readonly number[], data: Float32Array | Uint8Array | BigInt64Array): void {
    if (this.initializers.some((known) => known.name === name)) return; // the same weight read twice
    this.initializers.push({ name, type, shape, bytes: bytesOf(data) });
  }
}

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

function opNodes(source: GraphSource, op: Op, build: Builder, done: Set<Op>): void {
  if (done.has(op)) return;
  switch (op.op) {
    case "attention":
      attentionNodes(source, op, build);
      return;
    case "add":
      addNodes(source, op, build);
      return;
    case "rmsNorm":
      build.nodes.push({
        op: "SimplifiedLayerNormalization",
        inputs: [op.x, build.vector(op.weight, f32Of(source, op.weight).data)],
        outputs: [op.out],
        attributes: { axis: -1, stash_type: 1, epsilon: { float: op.eps } },
      });
      return;
    case "matMul":
      build.matMul(op.x, op.weight, densePolicy(source, source.weights[op.weight] as Matrix, op.out), op.out);
      return;
    case "siluMul":
      build.nodes.push({
        op: "QuickGelu",
        domain: "com.microsoft",
        inputs: [op.a],
        outputs: [`${op.out}.silu`],
        attributes: { alpha: { float: 1 } },
      });
      build.nodes.push({ op: "Mul", inputs: [`${op.out}.silu`, op.b], outputs: [op.out] });
      return;
    default:
      throw new TypeError(`op ${op.op} is no ONNX op here`);
  }
}

export function buildGraph(source: GraphSource): BuiltGraph {
  const attention = source.ops.find((op) => op.op === "attention");
  const build = new Builder(attention !== undefined);
  const done = new Set<Op>(); // swallowed by a fusion
  for (const op of source.ops) {
    if (op.op === "attention") for (const projection of packedProjections(source, op) ?? []) done.add(projection);
    const norm = op.op === "add" ? fusedNorm(source, op) : undefined;
    if (norm) done.add(norm);
  }
  for (const op of source.ops) opNodes(source, op, build, done);
  const value = (name: string): ValueInfo => {
    const width = source.widths.get(name) ?? 0;
    return { name, type: onnxType.f32, shape: attention ? ["b", "s", width] : ["n", width] };
  };
  const graph: Graph = {
    inputs: [...source.inputs.map(value), ...(attention ? attentionInputs(attention) : [])],
    outputs: [...source.outputs.map(value), ...(attention ? newRows(attention) : [])],
    nodes: build.nodes,
    initializers: build.initializers,
  };
  return { ...writeModel(graph), f32Bytes: build.f32Bytes, quantizedBytes: build.quantizedBytes, attention };
}

function attentionInputs(op: OpOf<"attention">): ValueInfo[] {
  const past = ["b", op.kvHeads, "p", op.headDim];
  const table = ["context", op.headDim / 2];
  return [
    { name: "past_key", type: onnxType.f32, shape: past },
    { name: "past_value", type: onnxType.f32, shape: past },
    { name: "seqlens_k", type: onnxType.i32, shape: ["b"] },
    { name: "total_length", type: onnxType.i32, shape: [] },
    { name: "positions", type: onnxType.i64, shape: ["b", "s"] },
    { name: "cos", type: onnxType.f32, shape: table },
    { name: "sin", type: onnxType.f32, shape: table },
  ];
}

function newRows(op: OpOf<"attention">): ValueInfo[] {
  return [newKey, newValue].map((name) => ({ name, type: onnxType.f32, shape: ["b", "s", op.kvHeads * op.headDim] }));
}

/** Width of every value a segment makes, from its inputs and weights. */
export function widthsOf(segment: Segment): Map<string, number> {
  const widths = new Map(segment.inputs.map(({ name, width }) => [name, width]));
  const shapes = new Map(segment.weights.map(({ name, shape }) => [name, shape]));
  for (const op of segment.ops) {
    if (op.op === "matMul") widths.set(op.out, shapes.get(op.weight)?.[0] ?? 0);
    else if (op.op === "gather") widths.set(op.out, shapes.get(op.table)?.[1] ?? 0);
    else if (op.op === "attention") widths.set(op.out, op.heads * op.headDim);
    else if (op.op === "rmsNorm") widths.set(op.out, widths.get(op.x) ?? 0);
    else if (op.op !== "route") widths.set(op.out, widths.get(op.a) ?? 0);
  }
  return widths;
}
