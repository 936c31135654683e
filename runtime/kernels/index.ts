// The ops there are. To add one: its member in segment.ts, its file, one line here (a missing line is a compile error). Pure.
import { add } from "./add.ts";
import { attention } from "./attention.ts";
import { gather } from "./gather.ts";
import type { Kernel } from "./kernel.ts";
import { matMul } from "./mat-mul.ts";
import { rmsNorm } from "./rms-norm.ts";
import { route } from "./route.ts";
import type { Op, OpName } from "./segment.ts";
import { siluMul } from "./silu-mul.ts";

const kernels: { readonly [Name in OpName]: Kernel<Extract<Op, { op: Name }>> } = {
  gather,
  rmsNorm,
  matMul,
  attention,
  add,
  siluMul,
  route,
};

export const opNames = Object.keys(kernels) as readonly OpName[];

/** The kernel of an op, usable with that op. */
export function kernelOf(op: Op): Kernel {
  return kernels[op.op] as unknown as Kernel;
}

/** Every test case of every op. */
export function allCases(): { readonly op: OpName; readonly tolerance: number; readonly case: ReturnType<Kernel["cases"]>[number] }[] {
  return opNames.flatMap((op) => kernels[op].cases().map((kernelCase) => ({ op, tolerance: kernels[op].tolerance, case: kernelCase })));
}
