// The largest logits of each row as nodes of a graph, so that a device gives some hundred numbers and not its whole vocabulary. Its best
// way is a selection and a sort of what was selected; where a device lacks one of the two, everything is sorted.
import type { Op } from "../../kernels/segment.ts";
import type { Pointer } from "./functions.ts";
import type { GraphBuilder, Value } from "./graph.ts";
import type { Lowering } from "./lowering.ts";

const floatMax = 2 ** 127 * (2 - 2 ** -23);
const intBytes = 4;
/** `GGML_SORT_ORDER_DESC`. */
const descending = 1;

interface Sizes {
  readonly of: number;
  readonly count: number;
  readonly rows: number;
}

/** Values of each row of x [of, rows] at its own `ids` [count, rows]: [count, rows]. */
function at(build: GraphBuilder, x: Value, ids: Value, { of, count, rows }: Sizes): Value {
  const { ggml } = build.device;
  const apart = build.view(ggml.ggml_reshape_3d(build.context, x.tensor, 1, of, rows), x);
  const found = build.step(ggml.ggml_get_rows(build.context, apart.tensor, ids.tensor), [apart, ids]);
  return build.view(ggml.ggml_reshape_2d(build.context, found.tensor, count, rows), found);
}

/** [count, rows], descending. Sorting numbers that are none may read beyond its memory, so they are brought within the finite ones. */
function largest(build: GraphBuilder, logits: Value, sizes: Sizes): Value {
  const { ggml } = build.device;
  const { of, count, rows } = sizes;
  const finite = build.step(ggml.ggml_clamp(build.context, logits.tensor, -floatMax, floatMax), [logits]);
  const top: Pointer = ggml.ggml_top_k(build.context, finite.tensor, count);
  if (count < of && (build.device.exact || build.device.supports(top))) {
    const chosen = build.step(top, [finite]);
    const values = at(build, finite, chosen, sizes);
    const order = build.step(ggml.ggml_argsort(build.context, values.tensor, descending), [values]);
    const apart = build.view(ggml.ggml_reshape_3d(build.context, chosen.tensor, 1, count, rows), chosen);
    const sorted = ggml.ggml_get_rows(build.context, apart.tensor, order.tensor);
    if (build.device.exact || build.device.supports(sorted)) {
      const ids = build.step(sorted, [apart, order]);
      return build.view(ggml.ggml_reshape_2d(build.context, ids.tensor, count, rows), ids);
    }
  }
  const all = build.step(ggml.ggml_argsort(build.context, finite.tensor, descending), [finite]);
  if (count === of) return all;
  const first = build.view(ggml.ggml_view_2d(build.context, all.tensor, count, rows, of * intBytes, 0), all);
  return build.step(ggml.ggml_cont(build.context, first.tensor), [first]);
}

export function candidates({ build, rows, widths, read, write }: Lowering, op: Extract<Op, { op: "candidates" }>): void {
  const { ggml } = build.device;
  const { context } = build;
  const [logits, sharpness] = [read(op.logits), read(op.sharpness)];
  const sizes = { of: widths.get(op.logits) as number, count: op.count, rows };
  const ids = largest(build, logits, sizes);
  const first = build.view(ggml.ggml_view_2d(context, ids.tensor, 1, rows, op.count * intBytes, 0), ids);
  const best = op.count === 1 ? ids : build.step(ggml.ggml_cont(context, first.tensor), [first]);
  const share = (x: Value): Value =>
    at(build, build.step(ggml.ggml_soft_max(context, x.tensor), [x]), best, { of: sizes.of, count: 1, rows });
  const sharp = build.step(ggml.ggml_mul(context, logits.tensor, sharpness.tensor), [logits, sharpness]);
  const [plain, own] = [share(logits), share(sharp)];
  write(op.ids, ids);
  write(op.values, at(build, logits, ids, sizes));
  write(op.shares, build.step(ggml.ggml_concat(context, plain.tensor, own.tensor, 0), [plain, own]));
}
