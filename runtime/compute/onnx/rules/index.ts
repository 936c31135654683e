// The training rules of ops. An op without a line here is computed by its kernel on the host, where no op on the device may follow it.
import { AppError } from "../../../../crds/common.ts";
import { opNames } from "../../../kernels/index.ts";
import type { Op, OpName } from "../../../kernels/segment.ts";
import type { HostRule, Rule } from "../rule.ts";
import { attention } from "./attention.ts";
import { add, addRow, clampedSwiglu, scale, siluMul } from "./elementwise.ts";
import { gru, mixHeads } from "./gates.ts";
import { matMul } from "./mat-mul.ts";
import { rmsNorm } from "./rms-norm.ts";
import { gather, joinHeads, slice } from "./shapes.ts";

const rules: { readonly [Name in OpName]?: Rule<Extract<Op, { op: Name }>> } = {
  gather,
  rmsNorm,
  matMul,
  attention,
  add,
  addRow,
  siluMul,
  clampedSwiglu,
  slice,
  joinHeads,
  scale,
  gru,
  mixHeads,
};

/** Gates for example: they give integers, and their rows are few. */
const byKernel: HostRule = { on: "host", backward: (op, { read, outputs }, kernel) => kernel.backward(op, { read }, outputs) };

/** Throws AppError `UnsupportedOp`. */
export function ruleOf(op: Op): Rule {
  if (!opNames.includes(op.op))
    throw new AppError(`op ${op.op} has no backward; train a model without it`, {
      code: "UnsupportedOp",
      operation: "compiling a segment",
    });
  return (rules[op.op] ?? byKernel) as Rule;
}
