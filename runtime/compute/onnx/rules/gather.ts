// gather, on the host: gradient rows are added to the table's sum in token order.
import { gradientOf, ints } from "../../../kernels/kernel.ts";
import type { Op } from "../../../kernels/segment.ts";
import type { HostRule } from "../rule.ts";

export const gather: HostRule<Extract<Op, { op: "gather" }>> = {
  on: "host",
  backward(op, { read, outputs, sums }) {
    const ids = ints(read(op.ids));
    const dOut = gradientOf(outputs, op.out);
    const sum = sums[op.table];
    if (sum === undefined) return {}; // the table is frozen
    const width = dOut.length / ids.length;
    for (const [n, id] of ids.entries()) {
      for (let from = n * width, to = id * width, d = 0; d < width; d++, from++, to++)
        sum[to] = (sum[to] as number) + (dOut[from] as number);
    }
    return {};
  },
};
