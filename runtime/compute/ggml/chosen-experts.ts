// Rows of the experts that a graph's rows choose in a slab, added to what a layer's block made of them.
import type { MoeLayer } from "../../kernels/segment.ts";
import { widthsOf } from "../../kernels/widths.ts";
import { endsOf } from "./expert-graphs.ts";
import type { GraphBuilder, Value } from "./graph.ts";
import { lowerOps } from "./program.ts";
import type { Slab } from "./slab.ts";

interface Sum {
  readonly y: Value;
  readonly gates: Value;
  readonly h: Value;
}

/** The same sum in llama.cpp's order of nodes, by which devices make one kernel of it. */
function summedAtOnce(
  build: GraphBuilder,
  { y, gates, h }: Sum,
  of: { readonly width: number; readonly k: number; readonly rows: number },
) {
  const { ggml } = build.device;
  const { width, k, rows } = of;
  const weighted = build.step(ggml.ggml_mul(build.context, y.tensor, gates.tensor), [y, gates]);
  const row = width * Float32Array.BYTES_PER_ELEMENT;
  const each = Array.from({ length: k }, (_, i) =>
    build.ahead(build.view(ggml.ggml_view_2d(build.context, weighted.tensor, width, rows, k * row, i * row), weighted)),
  );
  const add = (a: Value, b: Value): Value => build.step(ggml.ggml_add(build.context, a.tensor, b.tensor), [a, b]);
  return add(each.reduce(add), h);
}

interface Experts {
  readonly moe: MoeLayer;
  readonly slab: Slab;
  readonly rows: number;
}

/** h + the sum over k of gates[k] * y[k] in gate order, each product and sum rounded to f32. */
export function withExperts(build: GraphBuilder, { moe, slab, rows }: Experts, values: ReadonlyMap<string, Value>): Value {
  const { ggml } = build.device;
  const { topK: k, expert } = moe;
  const [h, f, ids, gates] = ["h", "f", "ids", "gates"].map((name) => values.get(name)) as [Value, Value, Value, Value];
  const [input, output] = endsOf(expert);
  const own = new Map([[input.name, f]]);
  lowerOps(build, expert.ops, own, { rows: k * rows, weights: slab.of({ ids, k, rows, shared: f }), widths: widthsOf(expert) });
  const y = own.get(output.name) as Value;
  const { width } = output;
  if (!build.device.exact) return summedAtOnce(build, { y, gates, h }, { width, k, rows });
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
