// The batcher where memory is short, steps are bounded in rows and time, and tokens are guessed.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { alone, blockTokens, checkEvents, context, prompts, Toy, ticket } from "../../../test/kit/models/toy-batch.ts";
import { placesOf } from "../../kernels/kv-groups.ts";
import { prefixIds } from "../../net/prefix-ids.ts";
import { Batcher } from "./batch.ts";
import { type KvTier, SlotLedger } from "./kv-ledger.ts";
import type { HeldBlock } from "./kv-slot.ts";
import { decodesOf, idsOf } from "./step-plan.ts";

test("eight requests whose contexts fit run at once, where whole contexts would be three", () => {
  const toy = new Toy(8, {}, { blocks: (3 * context) / blockTokens });
  for (let i = 0; i < 8; i++) toy.batcher.submit(ticket(`r${i}`, [8 + i, 9], { maxTokens: 14, eos: new Set() }));
  while (toy.batcher.queued > 0) toy.step();
  assert.ok(toy.batcher.slotsUsed >= 7, `${toy.batcher.slotsUsed}`);
  toy.run();
  assert.equal(toy.batcher.preemptions, 0);
});

test("where memory ends the last in order gives way, and is computed again without a word", () => {
  const toy = new Toy(2, {}, { blocks: 8 });
  const requests = [ticket("late", [8, 9], { maxTokens: 50, priority: 1 }), ticket("soon", [9, 8], { maxTokens: 50 })].map((each) => ({
    ...each,
    eos: new Set<number>(),
  }));
  for (const request of requests) toy.batcher.submit(request);
  const finished: string[] = [];
  for (let i = 0; toy.step(); i++) {
    assert.ok(i < 500);
    for (const id of ["late", "soon"]) if (toy.finish(id) && !finished.includes(id)) finished.push(id);
  }
  assert.deepEqual(finished, ["soon", "late"]);
  assert.ok(toy.batcher.preemptions > 0);
  assert.ok(
    toy.events.get("late")!.some(({ type }) => type === "progress"),
    "a sign of life while it waits",
  );
  for (const request of requests) assert.deepEqual(toy.tokens(request.id), alone(request));
});

/** Host memory in miniature, and the ledger before it: what left is copied before the next step, as far as it is there still. */
class Offload implements KvTier {
  readonly held = new Map<string, Uint8Array>();
  readonly ledger: SlotLedger;
  readonly #toy: Toy;
  readonly #left: HeldBlock[] = [];

  constructor(toy: Toy) {
    this.#toy = toy;
    this.ledger = new SlotLedger(toy.pool, prefixIds("toy"), this);
  }
  has = (id: string): boolean => this.held.has(id);
  take = (id: string): Uint8Array | undefined => this.held.get(id);
  left(blocks: readonly HeldBlock[]): void {
    this.#left.push(...blocks);
  }
  copy(): void {
    for (const change of this.ledger.takeChanges()) this.#toy.change(change);
    for (const { id, from, to } of this.#left.splice(0)) {
      const slot = this.ledger.holderOf({ id, to });
      if (slot) this.held.set(id, Uint8Array.from(this.#toy.slots[slot.index]!.slice(from, to)));
    }
  }
}

test("a request that gave way comes back from a tier: the same texts, and fewer rows of prompts are computed", () => {
  const run = (requests: ReturnType<typeof ticket>[], blocks: number, offloads: boolean) => {
    const toy = new Toy(2, {}, { blocks });
    const offload = new Offload(toy);
    if (offloads) Object.assign(toy, { batcher: new Batcher(toy.pool, offload.ledger) });
    for (const request of requests) toy.batcher.submit(request);
    for (let i = 0; toy.step(); i++) {
      assert.ok(i < 500);
      if (offloads) offload.copy();
    }
    const rows = toy.steps.reduce((sum, step) => sum + step.tokens.length - decodesOf(step), 0);
    return { rows, texts: requests.map(({ id }) => toy.tokens(id)), swapped: toy.batcher.swappedTokens };
  };
  let [rows, rowsWith, swapped] = [0, 0, 0];
  const length = fc.integer({ min: 2, max: 24 });
  fc.assert(
    fc.property(fc.array(length, { minLength: 2, maxLength: 4 }), fc.integer({ min: 8, max: 11 }), (lengths, blocks) => {
      const requests = lengths.map((count, i) =>
        ticket(
          `r${i}`,
          Array.from({ length: count }, (_, at) => 8 + ((at * 5 + i) % 12)),
          { maxTokens: 40, eos: new Set(), priority: i % 2 },
        ),
      );
      const [plain, offloaded] = [run(requests, blocks, false), run(requests, blocks, true)];
      assert.deepEqual(offloaded.texts, requests.map(alone));
      assert.deepEqual(plain.texts, offloaded.texts);
      assert.ok(offloaded.rows <= plain.rows, `${offloaded.rows} rows, and ${plain.rows} without`);
      rows += plain.rows;
      rowsWith += offloaded.rows;
      swapped += offloaded.swapped;
    }),
  );
  assert.ok(swapped > 0 && rowsWith < 0.9 * rows, `${rowsWith} of ${rows} rows, ${swapped} swapped`);
});

test("while others decode, chunks are as large as the time allows in which they wait, and larger when nobody does", () => {
  const toy = new Toy(3, { maxBatchTokens: 40, decodeWaitMs: 20 }, {}, 1); // 1 ms a token
  const prompt = Array.from({ length: 60 }, (_, i) => i + 8);
  toy.batcher.submit(ticket("a", prompt.slice(0, 45), { maxTokens: 15, eos: new Set() }));
  toy.batcher.submit(ticket("b", prompt.toReversed(), { maxTokens: 2, eos: new Set() }));
  toy.run();
  const chunks = toy.steps.flatMap(({ groups }) => groups.filter(({ phase }) => phase === "prefill"));
  assert.deepEqual(
    chunks.map(({ tokens, firstSlot }) => [firstSlot, tokens]),
    [
      [0, 40],
      [0, 5],
      [1, 35],
      [1, 16],
      [1, 9],
    ],
  );
});

test("guessed tokens are computed with the next one, and the text is the same in fewer steps", () => {
  let [steps, tokens] = [0, 0];
  fc.assert(
    fc.property(prompts, fc.integer({ min: 1, max: 16 }), fc.integer({ min: 1, max: 60 }), (prompt, draftTokens, maxTokens) => {
      const request = ticket("a", prompt, { maxTokens });
      const toy = new Toy(2, { draftTokens }, { blocks: context / blockTokens }, undefined, 1);
      toy.batcher.submit(request);
      toy.run();
      checkEvents(toy.events.get("a")!);
      const plain = new Toy(1, {}, {}, undefined, 1);
      plain.batcher.submit(request);
      plain.run();
      assert.deepEqual(toy.tokens("a"), plain.tokens("a"));
      assert.ok(toy.steps.every(({ groups }) => placesOf(groups).every(({ position }) => position < context)));
      const decoded = toy.steps.filter((step) => decodesOf(step) > 0).length;
      assert.equal(toy.tokens("a").length, 1 + decoded + toy.batcher.drafts.accepted);
      steps += decoded;
      tokens += toy.tokens("a").length;
    }),
  );
  assert.ok(steps < 0.8 * tokens, `${steps} steps for ${tokens} tokens`);
});

test("more requests than a decode step takes take turns", () => {
  const toy = new Toy(5, { maxDecodeBatch: 2 });
  for (let i = 0; i < 5; i++) toy.batcher.submit(ticket(`r${i}`, [8 + i, 9], { maxTokens: 20, eos: new Set() }));
  while (toy.batcher.slotsUsed < 5) toy.step();
  toy.step();
  const before = toy.steps.length;
  for (let i = 0; i < 6; i++) toy.step();
  const scheduler = toy.steps.slice(before).flatMap(idsOf);
  for (let i = 0; i < 5; i++) assert.equal(scheduler.filter((id) => id === `r${i}`).length, 2, `r${i} of ${scheduler}`);
  toy.run();
  for (let i = 0; i < 5; i++) assert.equal(toy.tokens(`r${i}`).length, 20);
});
