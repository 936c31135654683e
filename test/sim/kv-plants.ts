// Bugs in how keys and values move, each one change in one place, planted into the code under test to show that the fault search would find
// them.
import { SlotLedger } from "../../runtime/engine/schedule/kv-ledger.ts";
import { KvTransfers } from "../../runtime/engine/thread/kv-transfers.ts";
import { TransferPace } from "../../runtime/experts/memory/transfer-pace.ts";
import { positionBytes } from "./kv-engine.ts";
import { bend, type PlantedBug } from "./plants.ts";

let namesClass = true;

/** The roots of identities in engines of a simulation. */
export const identityOf = (digest: string, numerics: string): readonly string[] => (namesClass ? [digest, numerics] : [digest]);

type Read = (this: KvTransfers, ...args: Parameters<KvTransfers["read"]>) => ReturnType<KvTransfers["read"]>;
type Look = (this: KvTransfers, ...args: Parameters<KvTransfers["look"]>) => ReturnType<KvTransfers["look"]>;
type SlotWith = (this: SlotLedger, ...args: Parameters<SlotLedger["slotWith"]>) => ReturnType<SlotLedger["slotWith"]>;
type Begin = (this: TransferPace, limit: number) => () => void;

/** Signals of which the last one is left out where there are three: those of a fetch, and the end of its time. */
function endless(): () => void {
  const original = AbortSignal.any;
  AbortSignal.any = (signals) => original.call(AbortSignal, [...signals].slice(0, 2));
  return () => {
    AbortSignal.any = original;
  };
}

/** Slots of prompts move while their steps run. */
function neverHeld(): () => void {
  const original = Object.getOwnPropertyDescriptor(SlotLedger.prototype, "held") as PropertyDescriptor;
  Object.defineProperty(SlotLedger.prototype, "held", { ...original, set: () => {} });
  return () => void Object.defineProperty(SlotLedger.prototype, "held", original);
}

export const kvBugs: readonly PlantedBug[] = [
  {
    name: "a block's digest is not looked at",
    seen: /another identity/,
    plant: () => bend(Buffer.prototype, "equals", () => () => true),
  },
  {
    name: "an identity does not name the class of bits",
    seen: /another identity/,
    plant: () => {
      namesClass = false;
      return () => {
        namesClass = true;
      };
    },
  },
  {
    name: "a salted text is looked for among those of all",
    seen: /another identity/,
    plant: () =>
      bend<Look>(
        KvTransfers.prototype,
        "look",
        (original) =>
          function (this: KvTransfers, { tokens }) {
            return original.call(this, { tokens, cacheSalt: "" });
          },
      ),
  },
  {
    name: "a block that was evicted meanwhile is sent as it is",
    seen: /another identity/,
    plant: () =>
      bend<Read>(
        KvTransfers.prototype,
        "read",
        (original) =>
          async function (this: KvTransfers, block) {
            return (await original.call(this, block)) ?? new Uint8Array((block.to - block.from) * positionBytes);
          },
      ),
  },
  {
    name: "a source remembers in which slot a block was",
    seen: /another identity/,
    plant: () => {
      const known = new WeakMap<SlotLedger, Map<string, { readonly index: number }>>();
      return bend<SlotWith>(
        SlotLedger.prototype,
        "slotWith",
        (original) =>
          function (this: SlotLedger, block) {
            const slots = known.get(this) ?? new Map<string, { readonly index: number }>();
            known.set(this, slots);
            const found = slots.get(block.id) ?? original.call(this, block);
            if (found) slots.set(block.id, { index: found.index });
            return found;
          },
      );
    },
  },
  { name: "slots of prompts move while their steps run", seen: /the text of .* is another one/, plant: neverHeld },
  { name: "a fetch goes on when its time is over", seen: /after its time|fetched for/, plant: endless },
  {
    name: "a transfer that failed keeps its part of the rate",
    seen: /bytes a second of transfers/,
    plant: () =>
      bend<Begin>(
        TransferPace.prototype,
        "begin",
        (original) =>
          function (this: TransferPace, limit) {
            const end = original.call(this, limit);
            const startedAt = performance.now();
            return () => (performance.now() - startedAt < 1_000 ? end() : undefined);
          },
      ),
  },
];
