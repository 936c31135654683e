// The changes that the ledger of KV memory plans, made on a cache.
import type { KvCache } from "../../compute/backend.ts";
import type { SlotChange } from "../schedule/kv-ledger.ts";

export async function changeSlot(cache: KvCache, change: SlotChange): Promise<void> {
  switch (change.kind) {
    case "copy":
      return cache.copySlot(change.from, change.to, change.length);
    case "move":
      return cache.moveSlot(change.from, change.to, change.length);
    case "trim":
      return cache.trimSlot(change.slot, change.length);
  }
}
