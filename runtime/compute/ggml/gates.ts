// Gates, and the largest logits of rows, as graph nodes. Values are clamped to finite numbers for the choice (choosing.ts) only.
import type { Op } from "../../kernels/segment.ts";
import { best as bestOf, type Choice, descending, finite, firstOf, softmax, sorted, valuesAt } from "./choosing.ts";
import type { Pointer } from "./functions.ts";
import type { GraphBuilder, Value } from "./graph.ts";
import type { Lowering } from "./lowering.ts";

/** Avoids a division by 0. */
const sumFloor = 1e-20;

const best = (build: GraphBuilder, choices: Value, choice: Choice): Value =>
  bestOf(build, build.device.exact ? finite(build, choices) : choices, choice);

/** In llama.cpp's order of nodes, by which devices make one kernel of a gate; their sorts keep every index, whatever the values are. */
function chosen(build: GraphBuilder, choices: Value, { of, k, rows }: Choice): Value {
  const { ggml } = build.device;
  const order = build.stacked(ggml.ggml_argsort(build.context, choices.tensor, descending), [choices], { width: of, rows });
  return firstOf(build, order, { of, k, rows });
}

const byRow = (build: GraphBuilder, x: Value, { of, rows }: Pick<Choice, "of" | "rows">): Value =>
  build.ahead(build.view(build.device.ggml.ggml_reshape_3d(build.context, x.tensor, 1, of, rows), x));

const flat = (build: GraphBuilder, x: Value, { k, rows }: Choice): Value =>
  build.view(build.device.ggml.ggml_reshape_2d(build.context, x.tensor, k, rows), x);

const rowsAt = (build: GraphBuilder, apart: Value, ids: Value): Value =>
  build.step(build.device.ggml.ggml_get_rows(build.context, apart.tensor, ids.tensor), [apart, ids]);

function routeAsOne({ build, read, write }: Lowering, op: Extract<Op, { op: "route" }>, choice: Choice): void {
  const values = op.normalize ? read(op.logits) : softmax(build, read(op.logits));
  const apart = byRow(build, values, choice);
  const ids = chosen(build, values, choice);
  const found = rowsAt(build, apart, ids);
  write(op.ids, ids);
  write(op.gates, op.normalize ? byRow(build, softmax(build, flat(build, found, choice)), { of: choice.k, rows: choice.rows }) : found);
}

/** The gates of the chosen are a softmax of their logits. */
export function route(lowering: Lowering, op: Extract<Op, { op: "route" }>): void {
  const { build, rows, widths, read, write } = lowering;
  const choice = { of: widths.get(op.logits) as number, k: op.topK, rows };
  if (!build.device.exact) {
    routeAsOne(lowering, op, choice);
    return;
  }
  const logits = read(op.logits);
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
  const asOne = !build.device.exact;
  const apart = asOne ? byRow(build, scores, choice) : scores;
  const choices =
    op.bias === undefined ? scores : build.step(ggml.ggml_add(build.context, scores.tensor, weights.tensor(op.bias)), [scores]);
  const within = op.groups > 1 ? withinGroups(build, op, choices, choice) : choices;
  const ids = asOne ? chosen(build, within, choice) : best(build, within, choice);
  let gates = asOne ? rowsAt(build, apart, ids) : valuesAt(build, scores, ids, choice);
  if (op.normalize) {
    if (asOne) gates = flat(build, gates, choice);
    const sum = build.step(ggml.ggml_sum_rows(build.context, gates.tensor), [gates]);
    const { context } = build;
    const least = asOne
      ? ggml.ggml_clamp(context, sum.tensor, sumFloor, Number.POSITIVE_INFINITY)
      : ggml.ggml_scale_bias(context, sum.tensor, 1, sumFloor);
    const divisor = build.step(least, [sum]);
    gates = build.step(ggml.ggml_div(context, gates.tensor, divisor.tensor), [gates, divisor]);
    if (asOne) gates = byRow(build, gates, { of: op.topK, rows });
  }
  if (op.scale !== 1) gates = build.step(ggml.ggml_scale(build.context, gates.tensor, op.scale), [gates]);
  write(op.ids, ids);
  write(op.gates, gates);
}

/** Sets choices [of, rows] in dropped groups to minus infinity. */
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

/** A selection, then a sort of the selected. */
function largest(build: GraphBuilder, logits: Value, choice: Choice): Value {
  const { ggml } = build.device;
  const { of, k, rows } = choice;
  const within = finite(build, logits);
  const top: Pointer = ggml.ggml_top_k(build.context, within.tensor, k);
  if (k < of && (build.device.exact || build.device.supports(top))) {
    const chosen = build.step(top, [within]);
    const order = sorted(build, valuesAt(build, within, chosen, choice));
    const apart = build.view(ggml.ggml_reshape_3d(build.context, chosen.tensor, 1, k, rows), chosen);
    const ids = ggml.ggml_get_rows(build.context, apart.tensor, order.tensor);
    if (build.device.exact || build.device.supports(ids)) {
      const found = build.step(ids, [apart, order]);
      return build.view(ggml.ggml_reshape_2d(build.context, found.tensor, k, rows), found);
    }
  }
  return build.whole(bestOf(build, within, choice));
}

export function candidates({ build, rows, widths, read, write }: Lowering, op: Extract<Op, { op: "candidates" }>): void {
  const { ggml } = build.device;
  const { context } = build;
  const [logits, sharpness] = [read(op.logits), read(op.sharpness)];
  const choice = { of: widths.get(op.logits) as number, k: op.count, rows };
  const ids = largest(build, logits, choice);
  const likeliest = firstOf(build, ids, { of: op.count, k: 1, rows });
  const share = (x: Value): Value => valuesAt(build, softmax(build, x), likeliest, { of: choice.of, k: 1, rows });
  const sharp = build.step(ggml.ggml_mul(context, logits.tensor, sharpness.tensor), [logits, sharpness]);
  const [plain, own] = [share(logits), share(sharp)];
  write(op.ids, ids);
  write(op.values, valuesAt(build, logits, ids, choice));
  write(op.shares, build.step(ggml.ggml_concat(context, plain.tensor, own.tensor, 0), [plain, own]));
}
