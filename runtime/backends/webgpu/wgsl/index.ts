// The lowerings of ops on the device, by op. An op without a line here is refused by name when a model opens. Pure.
import type { Op, OpName } from "../../../kernels/segment.ts";
import type { Capabilities } from "../../backend.ts";
import { refuseVariant } from "../../variants.ts";
import { lowerAttention } from "./attention.ts";
import { lowerAdd, lowerSiluMul } from "./elementwise.ts";
import { lowerGather } from "./gather.ts";
import type { Lower, LowerContext, Lowering } from "./lower.ts";
import { lowerMatMul } from "./mat-mul.ts";
import { lowerRmsNorm } from "./rms-norm.ts";
import { lowerRoute } from "./route.ts";

const lowerings: { readonly [Name in OpName]?: Lower<Extract<Op, { op: Name }>> } = {
  gather: lowerGather,
  rmsNorm: lowerRmsNorm,
  matMul: lowerMatMul,
  attention: lowerAttention,
  add: lowerAdd,
  siluMul: lowerSiluMul,
  route: lowerRoute,
};

/** Every size that a config may have, since kernels are written for the sizes of their op; no variants. */
export const webgpuCapabilities: Capabilities = { ops: new Set(Object.keys(lowerings)), refuses: refuseVariant };

export function lower(op: Op, context: LowerContext): Lowering {
  return (lowerings[op.op] as Lower)(op, context);
}
