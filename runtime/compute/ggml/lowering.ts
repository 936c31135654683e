// The terms in which ops are lowered to nodes: weights as graphs use them, values by name, and rows apart for operations that take each by
// an index of its own.

import type { Pointer } from "./functions.ts";
import type { GraphBuilder, Value } from "./graph.ts";
import type { KvGraph } from "./kv.ts";

/** The weights of a segment as graphs use them. */
export interface WeightSource {
  /** weight [N, K] times x [K, rows] -> [N, rows] */
  multiply(build: GraphBuilder, weight: string, x: Value, rows: number): Value;
  /** x [N, rows] + weight [N] in every row */
  addRow(build: GraphBuilder, weight: string, x: Value, rows: number): Value;
  /** The tensor of a weight that all rows share. */
  tensor(weight: string): Pointer;
}

/** x [from, rows] through an operation that takes each row by an index of its own, and so wants rows apart: [from, 1, rows]. */
export function ofChosen(
  build: GraphBuilder,
  x: Value,
  { from, to, rows }: { readonly from: number; readonly to: number; readonly rows: number },
  operation: (apart: Value) => Value,
): Value {
  const { ggml } = build.device;
  const out = operation(build.view(ggml.ggml_reshape_3d(build.context, x.tensor, from, 1, rows), x));
  return build.view(ggml.ggml_reshape_2d(build.context, out.tensor, to, rows), out);
}

export interface Lowering {
  readonly build: GraphBuilder;
  readonly rows: number;
  readonly weights: WeightSource;
  /** The width of every value. */
  readonly widths: ReadonlyMap<string, number>;
  /** Set where the segment's ops use the KV cache. */
  readonly kv: KvGraph | undefined;
  read(name: string): Value;
  write(name: string, value: Value): void;
}
