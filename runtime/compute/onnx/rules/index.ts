// The training rules of all ops. To add one: its file, one line here.
import { AppError } from "../../../../crds/common.ts";
import type { Op, OpName } from "../../../kernels/segment.ts";
import type { HostRule, Rule } from "../rule.ts";
import { add } from "./add.ts";
import { addRow } from "./add-row.ts";
import { attention } from "./attention.ts";
import { clampedSwiglu } from "./clamped-swiglu.ts";
import { gather } from "./gather.ts";
import { gru } from "./gru.ts";
import { joinHeads } from "./join-heads.ts";
import { matMul } from "./mat-mul.ts";
import { mixHeads } from "./mix-heads.ts";
import { rmsNorm } from "./rms-norm.ts";
import { scale } from "./scale.ts";
import { siluMul } from "./silu-mul.ts";
import { slice } from "./slice.ts";

/** Gates run on the host: they give integers, and their rows are few. */
const byKernel: HostRule = { on: "host", backward: (op, { read, outputs }, kernel) => kernel.backward(op, { read }, outputs) };

const rules: { readonly [Name in OpName]: Rule<Extract<Op, { op: Name }>> } = {
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
  route: byKernel,
  groupRoute: byKernel,
  softRoute: byKernel,
  candidates: byKernel,
  scale,
  freeExperts: byKernel,
  gru,
  mixHeads,
};

/** Throws AppError `UnsupportedOp`. */
export function ruleOf(op: Op): Rule {
  const rule: unknown = rules[op.op];
  if (rule === undefined)
    throw new AppError(`op ${op.op} has no backward; train a model without it`, {
      code: "UnsupportedOp",
      operation: "compiling a segment",
    });
  return rule as Rule;
}
