// The free experts of MoE++ as graph nodes: chosen gates are spread over all experts, and those of free ones multiply the row and the
// constants.
import type { Op } from "../../kernels/segment.ts";
import { softmax } from "./choosing.ts";
import type { GraphBuilder, Value } from "./graph.ts";
import type { Lowering } from "./lowering.ts";

const f32Bytes = 4;

type FreeExperts = Extract<Op, { op: "freeExperts" }>;

interface Columns {
  readonly from: number;
  readonly count: number;
  readonly width: number;
  readonly rows: number;
}

/** Copies columns of x [width, rows]: [count, rows]. */
function columns(build: GraphBuilder, x: Value, { from, count, width, rows }: Columns): Value {
  const { ggml } = build.device;
  const part = build.view(ggml.ggml_view_2d(build.context, x.tensor, count, rows, width * f32Bytes, from * f32Bytes), x);
  return build.step(ggml.ggml_cont(build.context, part.tensor), [part]);
}

/** The gate of every expert, 0 if not chosen: [all, rows]. */
function spread({ build, rows, widths, read }: Lowering, op: FreeExperts, all: number): Value {
  const { ggml } = build.device;
  const [gates, ids] = [read(op.gates), read(op.ids)];
  const topK = widths.get(op.gates) as number;
  const apart = build.view(ggml.ggml_reshape_3d(build.context, gates.tensor, 1, topK, rows), gates);
  const first = build.view(ggml.ggml_view_3d(build.context, gates.tensor, 1, 1, rows, f32Bytes, topK * f32Bytes, 0), gates);
  const wide = build.step(ggml.ggml_repeat_4d(build.context, first.tensor, 1, all, rows, 1), [first]);
  const none = build.step(ggml.ggml_scale(build.context, wide.tensor, 0), [wide]);
  const spread = build.within(ggml.ggml_set_rows(build.context, none.tensor, apart.tensor, ids.tensor), none, [apart, ids]);
  return build.view(ggml.ggml_reshape_2d(build.context, spread.tensor, all, rows), spread);
}

const sum = (build: GraphBuilder, a: Value, b: Value): Value =>
  build.step(build.device.ggml.ggml_add(build.context, a.tensor, b.tensor), [a, b]);
const product = (build: GraphBuilder, a: Value, b: Value): Value =>
  build.step(build.device.ggml.ggml_mul(build.context, a.tensor, b.tensor), [a, b]);
const sumOfRow = (build: GraphBuilder, x: Value): Value => build.step(build.device.ggml.ggml_sum_rows(build.context, x.tensor), [x]);

export function freeExperts(lowering: Lowering, op: FreeExperts): void {
  const { build, rows, weights, widths, read, write } = lowering;
  const { ggml } = build.device;
  const [x, f] = [read(op.x), read(op.f)];
  const [stride, width] = [widths.get(op.x) as number, widths.get(op.f) as number];
  const constants = op.mix === undefined ? 0 : (widths.get(op.mix) as number) / 2;
  const all = op.from + constants + op.copies + op.zeros;
  const gates = spread(lowering, op, all);
  const gatesOf = (from: number, count: number): Value => columns(build, gates, { from, count, width: all, rows });
  let own = op.copies > 0 ? sumOfRow(build, gatesOf(op.from + constants, op.copies)) : undefined;
  let given: Value | undefined;
  if (op.mix !== undefined && op.constants !== undefined) {
    const mix = read(op.mix);
    const pairs = softmax(build, build.view(ggml.ggml_reshape_2d(build.context, mix.tensor, 2, constants * rows), mix));
    const share = (which: number): Value => {
      const part = columns(build, pairs, { from: which, count: 1, width: 2, rows: constants * rows });
      return build.view(ggml.ggml_reshape_2d(build.context, part.tensor, constants, rows), part);
    };
    const chosen = gatesOf(op.from, constants);
    const copied = sumOfRow(build, product(build, chosen, share(0)));
    own = own === undefined ? copied : sum(build, own, copied);
    given = weights.multiply(build, op.constants, product(build, chosen, share(1)), rows);
  }
  const copy = own && product(build, f, own);
  const added = copy && given ? sum(build, copy, given) : copy;
  write(op.out, added === undefined ? x : withFirst(build, x, added, { from: 0, count: width, width: stride, rows }));
}

function withFirst(build: GraphBuilder, x: Value, added: Value, first: Columns): Value {
  const { count, width } = first;
  if (count === width) return sum(build, x, added);
  const changed = sum(build, columns(build, x, first), added);
  const rest = columns(build, x, Object.assign({}, first, { from: count, count: width - count }));
  return build.step(build.device.ggml.ggml_concat(build.context, changed.tensor, rest.tensor, 0), [changed, rest]);
}
