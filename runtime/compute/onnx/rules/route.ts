// The gates route, groupRoute and softRoute, at the host: the choice of experts is integers, and a row's gates are few. Pure.
import type { Gradients, Kernel } from "../../../kernels/kernel.ts";
import type { Op } from "../../../kernels/segment.ts";
import type { HostCall, HostRule } from "../rule.ts";

type Gate = Extract<Op, { op: "route" | "groupRoute" | "softRoute" }>;

/** Only weights that take part in the choice are left without a gradient, since a choice has none. */
function backward<O extends Gate>(op: O, { read, outputs }: HostCall, kernel: Kernel<O>): Gradients {
  return kernel.backward(op, { read }, outputs);
}

export const route: HostRule<Extract<Op, { op: "route" }>> = { on: "host", backward };
export const groupRoute: HostRule<Extract<Op, { op: "groupRoute" }>> = { on: "host", backward };
export const softRoute: HostRule<Extract<Op, { op: "softRoute" }>> = { on: "host", backward };
