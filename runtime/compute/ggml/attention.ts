// Attention over the cache as one operation, where the device has it in these sizes of head, or as products and a softmax, which every
// device has in all sizes. A rasteriser takes the products: the one operation at times ends the process inside of Mesa's.
import type { Op } from "../../kernels/segment.ts";
import type { GgmlDevice } from "./device.ts";
import type { Pointer } from "./functions.ts";
import type { GraphBuilder, Value } from "./graph.ts";
import { numberOf } from "./types.ts";

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

/** Tokens, and positions looked at, of the question whether there is the one operation: it depends on the sizes of the head. */
const [tokens, positions] = [1, 64];

/** [valueDim, heads, tokens, batch] */
export function attend(build: GraphBuilder, op: Attention, parts: Parts): Value {
  return hasOperation(build.device, op) ? asOperation(build, op, parts) : asProducts(build, op, parts);
}

function asOperation(build: GraphBuilder, op: Attention, { q, keys, values, mask, sinks }: Parts): Value {
  const { ggml } = build.device;
  const tensor = ggml.ggml_flash_attn_ext(build.context, q.tensor, keys.tensor, values.tensor, mask.tensor, op.scale, 0, 0);
  if (sinks !== undefined) ggml.ggml_flash_attn_ext_add_sinks(tensor, sinks);
  return build.step(tensor, [q, keys, values, mask]);
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

/** Asked of the device with tensors that have sizes and no memory. The processor has it in all sizes. */
function hasOperation(device: GgmlDevice, op: Attention): boolean {
  if (device.exact) return true;
  if (device.software) return false;
  const { ggml } = device;
  const context = device.metadata(8);
  const make = (type: "f32" | "f16", ...[a, b, c]: readonly [number, number, number]) =>
    ggml.ggml_new_tensor_4d(context, numberOf(type), a, b, c, 1);
  const [q, k] = [make("f32", op.headDim, tokens, op.heads), make("f32", op.headDim, positions, op.kvHeads)];
  const [v, mask] = [make("f32", op.valueDim, positions, op.kvHeads), make("f16", positions, tokens, 1)];
  const node = ggml.ggml_flash_attn_ext(context, q, k, v, mask, op.scale, 0, 0);
  if (op.sinks !== undefined) ggml.ggml_flash_attn_ext_add_sinks(node, make("f32", op.heads, 1, 1));
  const has = device.supports(node);
  device.release(context);
  return has;
}
