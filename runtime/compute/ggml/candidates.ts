// The largest logits of each row as graph nodes: a selection, then a sort of the selected.
import type { Op } from "../../kernels/segment.ts";
import { best, type Choice, finite, firstOf, softmax, sorted, valuesAt } from "./choosing.ts";
import type { Pointer } from "./functions.ts";
import type { GraphBuilder, Value } from "./graph.ts";
import type { Lowering } from "./lowering.ts";

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
  return best(build, within, choice);
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
