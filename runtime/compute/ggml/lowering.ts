// The types of lowering: weights and named values.

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

export interface Lowering {
  readonly build: GraphBuilder;
  readonly rows: number;
  readonly weights: WeightSource;
  readonly widths: ReadonlyMap<string, number>;
  /** Set for segments with a KV cache. */
  readonly kv: KvGraph | undefined;
  read(name: string): Value;
  write(name: string, value: Value): void;
  /** The nodes of the value come before those of its first reader. */
  later(name: string, make: () => Value): void;
}
