// freeExperts, at the host: which of a row's experts they are is known there, and a row of them costs a few products. Pure.
import type { Op } from "../../../kernels/segment.ts";
import type { HostRule } from "../rule.ts";

export const freeExperts: HostRule<Extract<Op, { op: "freeExperts" }>> = {
  on: "host",
  backward: (op, { read, outputs }, kernel) => kernel.backward(op, { read }, outputs),
};
