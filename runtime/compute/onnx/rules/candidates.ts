// candidates, at the host: which logits are the largest is integers, and no loss is of them. Pure.
import type { Op } from "../../../kernels/segment.ts";
import type { HostRule } from "../rule.ts";

export const candidates: HostRule<Extract<Op, { op: "candidates" }>> = {
  on: "host",
  backward: (op, { read, outputs }, kernel) => kernel.backward(op, { read }, outputs),
};
