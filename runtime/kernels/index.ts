// The registry of ops. To add one: its file, one line here, and a line in each backend that lowers it.
import { AppError } from "../../crds/common.ts";
import { attention } from "./attention.ts";
import { candidates } from "./candidates.ts";
import { add, addRow, scale } from "./elementwise.ts";
import { freeExperts } from "./free-experts.ts";
import { gather } from "./gather.ts";
import { groupRoute } from "./group-route.ts";
import { gru } from "./gru.ts";
import { joinHeads } from "./join-heads.ts";
import type { Kernel, KernelCase } from "./kernel.ts";
import { matMul } from "./mat-mul.ts";
import { mixHeads } from "./mix-heads.ts";
import { rmsNorm } from "./rms-norm.ts";
import { route } from "./route.ts";
import { slice } from "./slice.ts";
import { softRoute } from "./soft-route.ts";
import { clampedSwiglu, siluMul } from "./swiglu.ts";

const kernels = {
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
  route,
  groupRoute,
  softRoute,
  candidates,
  scale,
  freeExperts,
  gru,
  mixHeads,
};

type OpOf<K> = K extends Kernel<infer O> ? O : never;
export type OpName = keyof typeof kernels;
export type Op = OpOf<(typeof kernels)[OpName]>;
export type OpCase = KernelCase<Op>;

export const opNames = Object.keys(kernels) as readonly OpName[];

export const isTrainedOnly = (name: OpName): boolean => "trainedOnly" in kernels[name];

/** Throws AppError `UnsupportedOp`. */
export function kernelOf(op: Op): Kernel<Op> {
  const kernel: unknown = kernels[op.op];
  if (kernel === undefined) throw new AppError(`there is no op ${op.op}`, { code: "UnsupportedOp", operation: "reading a program" });
  return kernel as Kernel<Op>;
}

export function gateLogits(ops: readonly Op[]): ReadonlySet<string> {
  return new Set(ops.flatMap((op) => kernelOf(op).gateLogits?.(op) ?? []));
}

/** Values that training stores for backward, beside inputs and outputs. */
export function keptValues(ops: readonly Op[]): ReadonlySet<string> {
  return new Set([...gateLogits(ops), ...ops.flatMap((op) => kernelOf(op).keeps?.(op) ?? [])]);
}

export function allCases(): { readonly op: OpName; readonly tolerance: number; readonly case: OpCase }[] {
  return opNames.flatMap((op) => kernels[op].cases().map((kernelCase) => ({ op, tolerance: kernels[op].tolerance, case: kernelCase })));
}
