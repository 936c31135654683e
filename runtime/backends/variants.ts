// The variants of ops that a backend refuses which computes their plain forms alone, as a reason that names them. Pure.
import type { Op } from "../kernels/segment.ts";

/** What is special about this op, as the beginning of a refusal; undefined for the plain form. */
function variantOf(op: Op): string | undefined {
  if (op.op === "rmsNorm") return op.heads === undefined ? undefined : "rmsNorm of heads";
  if (op.op !== "attention") return undefined;
  if (op.sinks !== undefined) return "attention with sinks";
  if (op.valueDim !== op.headDim) return `attention with values of ${op.valueDim} for keys of ${op.headDim}`;
  if (op.rope.interleaved) return "attention that turns neighbouring pairs";
  return 2 * op.rope.frequencies.length === op.headDim ? undefined : "attention that turns a part of a head";
}

export function refuseVariant(op: Op): string | undefined {
  const variant = variantOf(op);
  return variant === undefined ? undefined : `${variant} is not computed by this backend`;
}
