// The op attention.
import type { Kernel } from "./kernel.ts";
import type { Rope } from "./tensor.ts";

/**
 * Rotary embedding, KV append, causal grouped-query attention. q[n, heads*headDim], k[n, kvHeads*headDim], v[n, kvHeads*valueDim],
 * out[n, heads*valueDim].
 */
export interface Attention {
  readonly op: "attention";
  readonly q: string;
  readonly k: string;
  readonly v: string;
  readonly layer: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly valueDim: number;
  readonly rope: Rope;
  readonly scale: number;
  /** Tokens; 0 = none. */
  readonly window: number;
  /** Weight [heads]: a score per head that joins the softmax without a value. */
  readonly sinks?: string;
  /** Given and kept are keys and values of so many heads, and these `kvHeads` are attended to from `kvFrom` on. Unset: all are. */
  readonly among?: { readonly kvFrom: number; readonly kvHeads: number };
  readonly out: string;
}

export const attentionOutputs: Kernel<Attention>["outputs"] = (op) => [{ name: op.out, dtype: "f32", width: () => op.heads * op.valueDim }];
