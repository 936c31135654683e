// Calls that are made when a model opens, so that an operation which a device lacks is refused then and not in a request: graphs are built
// for one row and for several, and not run.
import type { Segment } from "../../kernels/segment.ts";
import type { KvCall } from "../backend.ts";
import type { GgmlDevice } from "./device.ts";
import { GgmlKv } from "./kv.ts";

/** Rows of a decode step and of a prefill, for which an operation may have kernels of its own. */
const triedRows = [1, 64];

/** `work` for each number of rows, with a cache of its own for a segment that uses one. */
export function forTrialCalls(device: GgmlDevice, { ops }: Segment, work: (rows: number, call: KvCall | undefined) => void): void {
  const attention = ops.find((op) => op.op === "attention");
  const cache =
    attention &&
    new GgmlKv(device, {
      layers: attention.layer + 1,
      slots: 1,
      kvHeads: attention.kvHeads,
      context: Math.max(...triedRows),
      headDim: attention.headDim,
      valueDim: attention.valueDim,
    });
  try {
    for (const tokens of triedRows) {
      work(tokens, cache && { cache, groups: [{ firstSlot: 0, batch: 1, tokens, past: new Int32Array(1) }] });
    }
  } finally {
    void cache?.dispose();
  }
}
