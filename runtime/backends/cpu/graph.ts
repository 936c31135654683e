// A run of ops becomes one ONNX graph. Pure: weights in, model bytes out.
// Rows are [batch, tokens, width] in graphs with attention (GroupQueryAttention wants three axes), [n, width] elsewhere.
import { Builder } from "./builder.ts";
import { fusedOps, type GraphSource, lowerOp, newKey, newValue, type OpOf } from "./lower.ts";
import { type Graph, type OnnxModel, onnxType, type ValueInfo, writeModel } from "./onnx.ts";

export interface BuiltGraph extends OnnxModel {
  /** Bytes of the weights as handed over; resident bytes follow from them (memory.ts). */
  readonly f32Bytes: number;
  readonly quantizedBytes: number;
  readonly attention: OpOf<"attention"> | undefined;
}

export function buildGraph(source: GraphSource): BuiltGraph {
  const attention = source.ops.find((op) => op.op === "attention");
  const build = new Builder(attention !== undefined);
  const fused = fusedOps(source);
  for (const op of source.ops) if (!fused.has(op)) lowerOp(source, op, build);
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
