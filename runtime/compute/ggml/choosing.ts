// The largest values of rows as graph nodes. Sorting NaN may read out of bounds, so callers clamp values first.
import type { GraphBuilder, Value } from "./graph.ts";

const floatMax = 2 ** 127 * (2 - 2 ** -23);
const intBytes = 4;
/** `GGML_SORT_ORDER_DESC`. */
export const descending = 1;

export interface Choice {
  readonly of: number;
  readonly k: number;
  readonly rows: number;
}

export const finite = (build: GraphBuilder, x: Value): Value =>
  build.step(build.device.ggml.ggml_clamp(build.context, x.tensor, -floatMax, floatMax), [x]);

export const sorted = (build: GraphBuilder, x: Value): Value =>
  build.step(build.device.ggml.ggml_argsort(build.context, x.tensor, descending), [x]);

/** The first k of each row of indices [of, rows]: [k, rows], in one piece where bits must not depend on rows. */
export function firstOf(build: GraphBuilder, ids: Value, { of, k, rows }: Choice): Value {
  if (k === of) return ids;
  const { ggml } = build.device;
  const first = build.view(ggml.ggml_view_2d(build.context, ids.tensor, k, rows, of * intBytes, 0), ids);
  const { stacked } = ids;
  const value = Object.assign(first, { apart: true }, stacked && { stacked });
  return build.device.exact ? build.whole(value) : value;
}

/** The indices [k, rows] of the k largest of each row of finite x, descending. */
export const best = (build: GraphBuilder, x: Value, choice: Choice): Value => firstOf(build, sorted(build, x), choice);

/** Values of each row of x [of, rows] at its `ids` [k, rows]: [k, rows]. */
export function valuesAt(build: GraphBuilder, x: Value, ids: Value, { of, k, rows }: Choice): Value {
  const { ggml } = build.device;
  const apart = build.view(ggml.ggml_reshape_3d(build.context, x.tensor, 1, of, rows), x);
  const found = build.step(ggml.ggml_get_rows(build.context, apart.tensor, ids.tensor), [apart, ids]);
  return build.view(ggml.ggml_reshape_2d(build.context, found.tensor, k, rows), found);
}

export const softmax = (build: GraphBuilder, x: Value): Value => build.step(build.device.ggml.ggml_soft_max(build.context, x.tensor), [x]);
