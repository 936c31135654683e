// A layer's parts in graphs of several: its block, its experts' slab, and the sum of what experts give.
import type { MoeLayer } from "../../kernels/segment.ts";
import type { ExpertGraphs, ExpertShape } from "./expert-graphs.ts";
import type { GraphBuilder, Value } from "./graph.ts";
import type { DenseProgram } from "./program.ts";
import type { Slab } from "./slab.ts";

const nodes = { perOp: 5, perExpert: 3, perLayer: 8 } as const;

export interface SlabHolder {
  readonly whole: Slab | undefined;
  /** On a processor: what computes its experts' rows where they are sorted; set while it is whole. */
  readonly sorted?: { readonly graphs: ExpertGraphs; readonly shape: ExpertShape; readonly slab: Slab } | undefined;
}

export interface Part {
  readonly program: DenseProgram;
  readonly moe: MoeLayer | undefined;
  readonly expertSlab: SlabHolder | undefined;
  /** False where a graph cannot choose among its experts, or its rows are wider than the rows they are added to. */
  readonly choosable: boolean;
}

export function nodesOf({ program, moe }: Part, groups: number): number {
  if (moe === undefined) return program.nodes(groups);
  return program.nodes(groups) + nodes.perOp * moe.expert.ops.length + nodes.perExpert * moe.topK + nodes.perLayer;
}

/** h + the sum over k of gates[k] * y[k] in gate order, each product and sum rounded to f32; y [width, k * rows]. */
export function weightedSum(build: GraphBuilder, y: Value, { h, gates, moe, rows }: Weighed): Value {
  const { ggml } = build.device;
  const { topK: k } = moe;
  const width = moe.expert.outputs[0]?.width as number;
  const apart = build.view(ggml.ggml_reshape_3d(build.context, y.tensor, width, k, rows), y);
  const shares = build.view(ggml.ggml_reshape_3d(build.context, gates.tensor, 1, k, rows), gates);
  const weighted = build.step(ggml.ggml_mul(build.context, apart.tensor, shares.tensor), [apart, shares]);
  const row = width * Float32Array.BYTES_PER_ELEMENT;
  let sum = h;
  for (let i = 0; i < k; i++) {
    const one = build.view(ggml.ggml_view_2d(build.context, weighted.tensor, width, rows, k * row, i * row), weighted);
    sum = build.step(ggml.ggml_add(build.context, sum.tensor, one.tensor), [sum, one]);
  }
  return sum;
}

interface Weighed {
  readonly h: Value;
  readonly gates: Value;
  readonly moe: MoeLayer;
  readonly rows: number;
}
