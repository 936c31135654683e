// Trial calls when a model opens.
import type { Segment } from "../../kernels/segment.ts";
import type { KvCall, ModelOptions } from "../backend.ts";
import type { GgmlDevice } from "./device.ts";
import { createGgmlKv } from "./kv.ts";
import { kvTypesOf, storedAs } from "./kv-types.ts";

/** The default number of prefill rows, which may use other kernels than one row. */
const rowsUsual = 64;

/** Calls `work` for one row and for the last `rowsMax` of `context`, with a cache of one layer if the segment uses one. */
export function forTrialCalls(
  device: GgmlDevice,
  { ops }: Segment,
  work: (rows: number, call: KvCall | undefined) => void,
  { rowsMax = rowsUsual, context = rowsMax }: Pick<ModelOptions, "rowsMax" | "context"> = {},
): void {
  const attentions = ops.filter((op) => op.op === "attention");
  const [attention] = attentions;
  const cache =
    attention &&
    createGgmlKv(device, {
      layers: 1,
      slots: 1,
      kvHeads: attention.kvHeads,
      context: Math.max(context, rowsMax),
      headDim: attention.headDim,
      valueDim: attention.valueDim,
      type: kvTypesOf(device).find((type) => storedAs(device, type, attention) !== undefined) ?? "f32",
    });
  cache?.repeatLayer(1 + Math.max(...attentions.map(({ layer }) => layer)));
  try {
    for (const tokens of [1, rowsMax]) {
      const past = Int32Array.of(tokens === rowsMax ? Math.max(0, context - tokens) : 0);
      work(tokens, cache && { cache, groups: [{ firstSlot: 0, batch: 1, tokens, past }] });
    }
  } finally {
    void cache?.dispose();
  }
}
