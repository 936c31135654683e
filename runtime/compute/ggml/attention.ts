// Attention over the cache as one operation where the device has it, else as products and a softmax.
import type { Op } from "../../kernels/segment.ts";
import type { Pointer } from "./functions.ts";
import type { GraphBuilder, Value } from "./graph.ts";

type Attention = Extract<Op, { op: "attention" }>;

interface Parts {
  /** [headDim, tokens, heads, batch] */
  readonly q: Value;
  /** [headDim, positions, kvHeads, batch] */
  readonly keys: Value;
  /** [valueDim, positions, kvHeads, batch] */
  readonly values: Value;
  readonly mask: Value;
  readonly sinks: Pointer | undefined;
}

/** [valueDim, heads, tokens, batch] */
export function attend(build: GraphBuilder, op: Attention, parts: Parts): Value {
  return asOperation(build, op, parts) ?? asProducts(build, op, parts);
}

/** Undefined where the device lacks it for this head and these types. */
function asOperation(build: GraphBuilder, op: Attention, { q, keys, values, mask, sinks }: Parts): Value | undefined {
  const { ggml, exact, software } = build.device;
  if (software) return undefined;
  const tensor = ggml.ggml_flash_attn_ext(build.context, q.tensor, keys.tensor, values.tensor, mask.tensor, op.scale, 0, 0);
  if (sinks !== undefined) ggml.ggml_flash_attn_ext_add_sinks(tensor, sinks);
  return exact || build.device.supports(tensor) ? build.step(tensor, [q, keys, values, mask]) : undefined;
}

function asProducts(build: GraphBuilder, op: Attention, { q, keys, values, mask, sinks }: Parts): Value {
  const { ggml } = build.device;
  const { context } = build;
  const scores = build.step(ggml.ggml_mul_mat(context, keys.tensor, q.tensor), [keys, q]);
  const softmax = ggml.ggml_soft_max_ext(context, scores.tensor, mask.tensor, op.scale, 0);
  if (sinks !== undefined) ggml.ggml_soft_max_add_sinks(softmax, sinks);
  const shares = build.step(softmax, [scores, mask]);
  const across = build.view(ggml.ggml_permute(context, values.tensor, 1, 0, 2, 3), values);
  const turned = build.step(ggml.ggml_cont(context, across.tensor), [across]);
  const sums = build.step(ggml.ggml_mul_mat(context, turned.tensor, shares.tensor), [turned, shares]);
  const byToken = build.view(ggml.ggml_permute(context, sums.tensor, 0, 2, 1, 3), sums);
  return build.step(ggml.ggml_cont(context, byToken.tensor), [byToken]);
}
