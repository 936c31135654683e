// The types of lowering: weights, named values, and separated rows.

import type { Pointer } from "./functions.ts";
import type { GraphBuilder, Value } from "./graph.ts";
import type { KvGraph } from "./kv.ts";

export interface WeightSource {
  /** weight [N, K] times x [K, rows] -> [N, rows] */
  multiply(build: GraphBuilder, weight: string, x: Value, rows: number): Value;
  /** x [N, rows] + weight [N] in every row */
  addRow(build: GraphBuilder, weight: string, x: Value, rows: number): Value;
  /** The tensor of a weight that all rows share. */
  tensor(weight: string): Pointer;
}

/** x [from, rows] -> [from, 1, rows] for an operation with an index per row. */
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
  readonly widths: ReadonlyMap<string, number>;
  /** Set for segments with a KV cache. */
  readonly kv: KvGraph | undefined;
  read(name: string): Value;
  write(name: string, value: Value): void;
}
