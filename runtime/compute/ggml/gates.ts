// The gates as nodes of a graph: scores of experts, the choice of the best and their shares. Sorting by numbers that are none may read
// beyond its memory, so choices are brought within the finite ones first; the shares are not, so that such a row is found out later.
import type { Op } from "../../kernels/segment.ts";
import type { GraphBuilder, Value } from "./graph.ts";
import type { Lowering } from "./lowering.ts";

const floatMax = 2 ** 127 * (2 - 2 ** -23);
const intBytes = 4;
/** `GGML_SORT_ORDER_DESC`. */
const descending = 1;
/** Added to the sum that gates are divided by. */
const sumFloor = 1e-20;

interface Choice {
  readonly of: number;
  readonly k: number;
  readonly rows: number;
}

/** The k largest of each row of `choices` [of, rows], descending: their indices [k, rows]. */
function best(build: GraphBuilder, choices: Value, { of, k, rows }: Choice): Value {
  const { ggml } = build.device;
  const finite = build.step(ggml.ggml_clamp(build.context, choices.tensor, -floatMax, floatMax), [choices]);
  const sorted = build.step(ggml.ggml_argsort(build.context, finite.tensor, descending), [finite]);
  if (k === of) return sorted;
  const first = build.view(ggml.ggml_view_2d(build.context, sorted.tensor, k, rows, of * intBytes, 0), sorted);
  return build.step(ggml.ggml_cont(build.context, first.tensor), [first]);
}

/** Values of each row of x [of, rows] at its own `ids` [k, rows]: [k, rows]. */
function valuesAt(build: GraphBuilder, x: Value, ids: Value, { of, k, rows }: Choice): Value {
  const { ggml } = build.device;
  const apart = build.view(ggml.ggml_reshape_3d(build.context, x.tensor, 1, of, rows), x);
  const found = build.step(ggml.ggml_get_rows(build.context, apart.tensor, ids.tensor), [apart, ids]);
  return build.view(ggml.ggml_reshape_2d(build.context, found.tensor, k, rows), found);
}

const softmax = (build: GraphBuilder, x: Value): Value => build.step(build.device.ggml.ggml_soft_max(build.context, x.tensor), [x]);

/** The shares of the chosen alone are a softmax of theirs. */
export function route({ build, rows, widths, read, write }: Lowering, op: Extract<Op, { op: "route" }>): void {
  const logits = read(op.logits);
  const choice = { of: widths.get(op.logits) as number, k: op.topK, rows };
  const ids = best(build, logits, choice);
  const gates = op.normalize ? softmax(build, valuesAt(build, logits, ids, choice)) : valuesAt(build, softmax(build, logits), ids, choice);
  write(op.ids, ids);
  write(op.gates, gates);
}

type GroupRoute = Extract<Op, { op: "groupRoute" }>;

export function groupRoute({ build, rows, weights, widths, read, write }: Lowering, op: GroupRoute): void {
  const { ggml } = build.device;
  const logits = read(op.logits);
  const choice = { of: widths.get(op.logits) as number, k: op.topK, rows };
  const scores = op.sigmoid ? build.step(ggml.ggml_sigmoid(build.context, logits.tensor), [logits]) : softmax(build, logits);
  const choices =
    op.bias === undefined ? scores : build.step(ggml.ggml_add(build.context, scores.tensor, weights.tensor(op.bias)), [scores]);
  const ids = best(build, op.groups > 1 ? withinGroups(build, op, choices, choice) : choices, choice);
  let gates = valuesAt(build, scores, ids, choice);
  if (op.normalize) {
    const sum = build.step(ggml.ggml_sum_rows(build.context, gates.tensor), [gates]);
    const divisor = build.step(ggml.ggml_scale_bias(build.context, sum.tensor, 1, sumFloor), [sum]);
    gates = build.step(ggml.ggml_div(build.context, gates.tensor, divisor.tensor), [gates, divisor]);
  }
  if (op.scale !== 1) gates = build.step(ggml.ggml_scale(build.context, gates.tensor, op.scale), [gates]);
  write(op.ids, ids);
  write(op.gates, gates);
}

/** Choices [of, rows] of experts in groups that do not stay become minus infinity. */
function withinGroups(build: GraphBuilder, op: GroupRoute, choices: Value, { of, rows }: Choice): Value {
  const { ggml } = build.device;
  const size = of / op.groups;
  const perGroup = { of: size, k: op.groupTop, rows: op.groups * rows };
  const apart = build.view(ggml.ggml_reshape_2d(build.context, choices.tensor, size, op.groups * rows), choices);
  const largest = valuesAt(build, apart, best(build, apart, perGroup), perGroup);
  const sums = op.groupTop === 1 ? largest : build.step(ggml.ggml_sum_rows(build.context, largest.tensor), [largest]);
  const groups = build.view(ggml.ggml_reshape_2d(build.context, sums.tensor, op.groups, rows), sums);
  const kept = best(build, groups, { of: op.groups, k: op.groupsKept, rows });
  const grouped = build.view(ggml.ggml_reshape_3d(build.context, choices.tensor, size, op.groups, rows), choices);
  const stay = build.step(ggml.ggml_get_rows(build.context, grouped.tensor, kept.tensor), [grouped, kept]);
  const none = build.step(ggml.ggml_scale_bias(build.context, grouped.tensor, 0, Number.NEGATIVE_INFINITY), [grouped]);
  const all = build.within(ggml.ggml_set_rows(build.context, none.tensor, stay.tensor, kept.tensor), none, [stay, kept]);
  return build.view(ggml.ggml_reshape_2d(build.context, all.tensor, of, rows), all);
}
