// A transfer and requests that leave in the middle of it: rows are those of the slot that the ledger and the memory both mean.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { KvCache } from "../../compute/backend.ts";
import { prefixIds } from "../../net/prefix-ids.ts";
import { type SlotChange, SlotLedger } from "../schedule/kv-ledger.ts";
import { KvTransfers } from "./kv-transfers.ts";

const context = 128;
const tokensFrom = (first: number, count = 64): Uint32Array => Uint32Array.from({ length: count }, (_, i) => first + i);

/** Slots' memory as the owner of its rows. */
function world(...owners: readonly string[]) {
  const ledger = new SlotLedger({ slots: 4, context, blocks: 400, blockTokens: 64 }, prefixIds("model", "numerics"));
  const memory: (string | undefined)[] = [];
  const used: (string | undefined)[] = [];
  const change = async (each: SlotChange): Promise<void> => {
    if (each.kind !== "copy" && each.kind !== "move") return;
    memory[each.to] = memory[each.from];
  };
  const kv = {
    positionBytes: 1,
    readRows: (slot: number) => {
      used.push(memory[slot]);
      return new Uint8Array(64);
    },
    writeRows: (slot: number) => void used.push(memory[slot]),
  } as unknown as KvCache;
  const transfers = new KvTransfers({ ledger, kv, boundary: { wake: () => {} }, change, tokenMs: () => 1 });
  for (const [i, owner] of owners.entries()) {
    const tokens = tokensFrom(1000 * (i + 1));
    memory[ledger.admit(owner, { tokens })?.slot ?? -1] = owner;
    ledger.prefilled(owner, tokens);
    ledger.promote(owner);
  }
  ledger.takeChanges();
  /** Carries out what waits, while the first request leaves. */
  const run = async (): Promise<void> => {
    queueMicrotask(() => ledger.leave(owners[0] ?? ""));
    await transfers.next();
  };
  return { ledger, transfers, used, run };
}

const blockOf = (text: Uint32Array) => world().ledger.blocksBehind({ tokens: Uint32Array.from([...text, 1]) }).blocks;

test("a block is read where its rows are, although another request leaves meanwhile", async () => {
  const { transfers, used, run } = world("a", "b", "c");
  const [block] = blockOf(tokensFrom(3000));
  const read = transfers.read(block as NonNullable<typeof block>);
  await run();
  assert.equal((await read)?.byteLength, 64);
  assert.deepEqual(used, ["c"]);
});

test("a block is written over no request's rows, although another one leaves meanwhile", async () => {
  const { transfers, used, run } = world("a", "b");
  const [block] = blockOf(tokensFrom(5000));
  const written = transfers.write({ block: block as NonNullable<typeof block>, tokens: tokensFrom(5000), data: new Uint8Array(64) });
  await run();
  assert.equal(await written, true);
  assert.ok(!used.includes("b"), `${used}`);
});

test("a text that is longer than this rank's context is brought as far as that, and one that is here is not written again", async () => {
  const { ledger, transfers, used } = world();
  const text = tokensFrom(7000, 300);
  const came: boolean[] = [];
  for (const block of [...blockOf(text), ...blockOf(text).slice(0, 1)]) {
    const [tokens, data] = [text.slice(block.from, block.to), new Uint8Array(block.to - block.from)];
    const written = transfers.write({ block, tokens, data });
    await transfers.next();
    came.push(await written);
  }
  assert.deepEqual([came, used.length], [[true, true, false, false, false, true], 2]);
  assert.equal(ledger.reusable({ tokens: text }), context);
});

test("blocks that wait move together while that takes no longer than it may, and one moves in any case", async () => {
  const { transfers } = world("a");
  const [block] = blockOf(tokensFrom(1000));
  const ask = () => Array.from({ length: 3 }, () => transfers.read(block as NonNullable<typeof block>));
  const all = ask();
  await transfers.moveFor(1_000);
  assert.equal(transfers.pending, 0);
  await Promise.all(all);
  ask();
  await transfers.moveFor(0);
  assert.equal(transfers.pending, 2);
});
