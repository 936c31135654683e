// The slot ledger against a plain picture of KV memory: random requests come, grow and leave; moves are applied as the
// engine would; what every request sees in its slot must be its own tokens.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { prefixIds } from "../../net/prefix-ids.ts";
import { type KvPool, SlotLedger } from "./kv-ledger.ts";
import { reuseTokensMin } from "./prefixes.ts";

const context = 128;
const blockTokens = 8;

/** A pool of so many slots; `blocks` unset: each slot may be full. */
function ledgerOf(slots: number, rest: Partial<KvPool> = {}): SlotLedger {
  return new SlotLedger({ slots, context, blocks: (slots * context) / blockTokens, blockTokens, ...rest }, prefixIds("test"));
}

/** Slots as arrays of what was written; what was trimmed or left behind is gone. */
class Memory {
  readonly slots: number[][];
  constructor(count: number) {
    this.slots = Array.from({ length: count }, () => []);
  }
  apply(ledger: SlotLedger): boolean {
    const changes = ledger.takeChanges();
    for (const change of changes) {
      if (change.kind === "trim") {
        const slot = this.slots[change.slot]!;
        slot.length = Math.min(slot.length, change.length);
        continue;
      }
      if (change.kind === "write") {
        this.write(change.slot, change.from, [...change.data]);
        continue;
      }
      const { from, to, length } = change;
      assert.ok(from !== to && this.slots[from]!.length >= length);
      this.slots[to] = this.slots[from]!.slice(0, length);
      if (change.kind === "move") this.slots[from] = [];
    }
    return changes.length > 0;
  }
  write(slot: number, at: number, values: readonly number[]): void {
    const row = this.slots[slot]!;
    assert.ok(row.length >= at, "a gap in the slot");
    row.splice(at, values.length, ...values);
  }
  get blocks(): number {
    return this.slots.reduce((sum, { length }) => sum + Math.ceil(length / blockTokens), 0);
  }
}

const prompts = Array.from({ length: 4 }, (_, shared) =>
  Uint32Array.from({ length: 60 }, (_unused, i) => (i < 20 + shared * 8 ? i + 1 : (shared + 1) * 1000 + i)),
);

test("a slot counts as kept while nobody uses it and its prompt is long enough to be reused", () => {
  const ledger = ledgerOf(3);
  const prompt = (length: number) => Uint32Array.from({ length }, (_, i) => i);
  for (const [owner, length] of [
    ["short", reuseTokensMin - 1],
    ["long", reuseTokensMin],
  ] as const) {
    ledger.admit(owner, { tokens: prompt(length) });
    ledger.prefilled(owner, prompt(length));
    ledger.promote(owner);
  }
  assert.deepEqual([ledger.used, ledger.kept], [2, 0]);
  ledger.leave("short");
  ledger.leave("long");
  assert.deepEqual([ledger.used, ledger.kept], [0, 1]);
});

const setting = fc.record({
  slots: fc.integer({ min: 1, max: 5 }),
  blocks: fc.integer({ min: context / blockTokens, max: 40 }),
});
const acts = ["admit", "prefill", "decode", "decode", "leave", "leavePrefill", "move"] as const;
const command = fc.record({ act: fc.constantFrom(...acts), pick: fc.nat(1000) });

/** A ledger beside a plain picture of the memory and of what each request wrote. */
class World {
  readonly ledger: SlotLedger;
  readonly memory: Memory;
  readonly pool: KvPool;
  readonly prompt = new Map<string, Uint32Array>();
  readonly written = new Map<string, number[]>();
  prefilling: string[] = [];
  reused = 0;
  moved = 0;
  #next = 0;

  constructor({ slots, blocks }: { slots: number; blocks: number }) {
    this.pool = { slots, context, blocks, blockTokens };
    this.ledger = new SlotLedger(this.pool, prefixIds("test"));
    this.memory = new Memory(slots);
  }

  admit(pick: number): void {
    const id = `r${this.#next++}`;
    // A prompt of the list, or the text of one that was written before with something after it.
    const before = [...this.written.values()][pick % 7]?.slice(0, 70) ?? [];
    const tokens = pick % 3 === 0 ? Uint32Array.from([...before, 1, pick]) : prompts[pick % prompts.length]!.slice(0, 2 + (pick % 59));
    const active = this.ledger.used;
    const admission = this.ledger.admit(id, { tokens });
    if (active === 0) assert.ok(admission, "an empty pool takes any request");
    if (active === this.pool.slots) assert.equal(admission, undefined);
    if (!admission) return;
    assert.ok(admission.reused === 0 || admission.reused >= reuseTokensMin);
    assert.ok(admission.reused <= tokens.length - 1, "something is left to compute");
    this.reused += admission.reused;
    this.prefilling.push(id);
    this.prompt.set(id, tokens);
    this.written.set(id, [...tokens.slice(0, admission.reused)]);
  }

  prefill(pick: number): void {
    const [id] = this.prefilling;
    if (id === undefined) return;
    const done = this.written.get(id)!;
    const tokens = this.prompt.get(id)!;
    const chunk = tokens.slice(done.length, done.length + 1 + (pick % 80));
    this.memory.apply(this.ledger);
    this.memory.write(this.ledger.indexOf(id), done.length, [...chunk]);
    this.written.set(id, [...done, ...chunk]);
    this.ledger.prefilled(id, chunk);
    if (done.length + chunk.length < tokens.length) return;
    this.ledger.promote(id);
    this.prefilling.shift();
  }

  /** A decode step of those that get a block. */
  decode(pick: number): void {
    const grown = this.ledger.decoding().filter((id) => {
      const length = this.ledger.lengthOf(id) + 1;
      return length <= context && this.ledger.grow(id, length);
    });
    this.memory.apply(this.ledger);
    for (const id of grown) {
      const length = this.ledger.lengthOf(id);
      this.memory.write(this.ledger.indexOf(id), length, [pick]);
      this.written.get(id)!.push(pick);
      this.ledger.advance(id, pick);
    }
  }

  /** A block of a text comes from another rank, and one is read for another. */
  move(pick: number): void {
    const text = Uint32Array.from([...this.written.values()][pick % 11] ?? prompts[pick % prompts.length]!);
    const { blocks } = this.ledger.blocksBehind({ tokens: text });
    const block = blocks[pick % 3 === 0 ? 1 : 0];
    for (let slot = block && this.ledger.slotFor(block); block && slot; slot = this.ledger.slotFor(block)) {
      const isChanged = this.memory.apply(this.ledger);
      if (isChanged) continue;
      const tokens = text.slice(block.from, block.to);
      this.memory.write(slot.index, block.from, [...tokens]);
      this.ledger.wrote(slot, tokens);
      this.moved += 1;
      break;
    }
    for (const { id, to } of blocks) {
      const slot = this.ledger.slotWith({ id, to });
      if (slot) assert.deepEqual(this.memory.slots[slot.index]!.slice(0, to), [...text.slice(0, to)]);
      assert.equal(this.ledger.slotWith({ id, to: to + reuseTokensMin }), undefined);
    }
  }

  leave(id: string | undefined): void {
    if (id === undefined) return;
    this.ledger.leave(id);
    this.prefilling = this.prefilling.filter((other) => other !== id);
  }

  check(): void {
    this.memory.apply(this.ledger);
    const decoding = this.ledger.decoding();
    assert.equal(this.ledger.used, decoding.length + this.prefilling.length);
    assert.deepEqual(this.ledger.prefilling(), this.prefilling);
    for (const [slot, id] of [...decoding, ...this.prefilling].entries()) {
      const want = this.written.get(id)!;
      assert.deepEqual(this.memory.slots[slot]!.slice(0, want.length), want, `${id} in slot ${slot}`);
      assert.equal(this.ledger.lengthOf(id), want.length);
      assert.equal(this.ledger.indexOf(id), slot);
    }
    const counted = this.ledger.blocksUsed + this.ledger.blocksKept;
    assert.ok(this.memory.blocks <= counted && counted <= this.pool.blocks, `${this.memory.blocks} written, ${counted} counted`);
  }
}

test("whatever comes and goes, every request finds its own tokens in its slot, and no more is written than counted", () => {
  let [reused, moved] = [0, 0];
  fc.assert(
    fc.property(setting, fc.array(command, { minLength: 60, maxLength: 150, size: "max" }), (options, commands) => {
      const world = new World(options);
      for (const { act, pick } of commands) {
        if (act === "admit") world.admit(pick);
        else if (act === "prefill") world.prefill(pick);
        else if (act === "decode") world.decode(pick);
        else if (act === "move") world.move(pick);
        else if (act === "leave") world.leave(world.ledger.decoding()[pick % Math.max(1, world.ledger.decoding().length)]);
        else world.leave(world.prefilling[pick % Math.max(1, world.prefilling.length)]);
        world.check();
      }
      reused += world.reused;
      moved += world.moved;
    }),
    { numRuns: 300 },
  );
  assert.ok(reused > 1000 && moved > 300, `${reused} reused, ${moved} moved`);
});

function finish(ledger: SlotLedger, id: string, prompt: Uint32Array): void {
  const admission = ledger.admit(id, { tokens: prompt });
  assert.ok(admission);
  ledger.prefilled(id, prompt.slice(admission.reused));
  ledger.promote(id);
}

test("a request that moves before its first position counts takes along what was written of it", () => {
  const ledger = ledgerOf(2);
  for (const owner of ["a", "b"]) {
    ledger.admit(owner, { tokens: Uint32Array.of(1) });
    ledger.prefilled(owner, new Uint32Array(0)); // its only row is computed again
    ledger.promote(owner);
  }
  ledger.leave("a");
  assert.deepEqual(ledger.takeChanges().at(-1), { kind: "move", from: 1, to: 0, length: 0 });
});

test("what a finished request computed is reused in place, its answer too", () => {
  const ledger = ledgerOf(2);
  const prompt = Uint32Array.from({ length: 40 }, (_, i) => i);
  finish(ledger, "a", prompt);
  for (let i = 0; i < 5; i++) ledger.advance("a", 40 + i);
  ledger.leave("a");
  const longer = Uint32Array.from({ length: 60 }, (_, i) => i);
  assert.deepEqual(ledger.admit("b", { tokens: longer }), { slot: 0, reused: 45 });
  assert.deepEqual(ledger.takeChanges(), []);
});

test("a prompt that is not reusable is kept nowhere", () => {
  const ledger = ledgerOf(2);
  const prompt = Uint32Array.from({ length: 40 }, (_, i) => i);
  finish(ledger, "a", prompt);
  ledger.leave("a", false);
  assert.equal(ledger.kept, 0);
  assert.deepEqual(ledger.admit("b", { tokens: prompt }), { slot: 0, reused: 0 });
});

test("a short common prefix is computed again", () => {
  const ledger = ledgerOf(1);
  finish(
    ledger,
    "a",
    Uint32Array.from({ length: 40 }, (_, i) => i),
  );
  ledger.leave("a");
  const other = Uint32Array.from({ length: 40 }, (_, i) => (i < reuseTokensMin - 1 ? i : 99));
  assert.equal(ledger.admit("b", { tokens: other })?.reused, 0);
});

test("what a running request computed is copied, its answer too", () => {
  const ledger = ledgerOf(2);
  const text = Uint32Array.from({ length: 60 }, (_, i) => i);
  finish(ledger, "a", text.slice(0, 40));
  for (let i = 40; i < 50; i++) ledger.advance("a", i);
  assert.deepEqual(ledger.admit("b", { tokens: text }), { slot: 1, reused: 50 });
  assert.deepEqual(ledger.takeChanges(), [{ kind: "copy", from: 0, to: 1, length: 50 }]);
});

test("blocks are taken from what was used longest ago, from its end, and no more than needed", () => {
  const ledger = ledgerOf(4, { blocks: 16 });
  const prompt = (start: number) => Uint32Array.from({ length: 40 }, (_, i) => start + i);
  for (const [id, start] of [
    ["a", 0],
    ["b", 1000],
    ["c", 2000],
  ] as const) {
    finish(ledger, id, prompt(start));
    ledger.leave(id);
  }
  assert.deepEqual([ledger.kept, ledger.blocksKept, ledger.blocksUsed], [3, 15, 0]);
  finish(
    ledger,
    "d",
    Uint32Array.from({ length: 24 }, (_, i) => 3000 + i),
  );
  assert.deepEqual([ledger.kept, ledger.blocksKept, ledger.blocksUsed], [3, 13, 3]);
  assert.equal(ledger.admit("a2", { tokens: prompt(0) })?.reused, 24, "the oldest lost two blocks");
});

test("texts of another start have nothing in common, neither here nor at other ranks", () => {
  const ledger = ledgerOf(4);
  const tokens = Uint32Array.from({ length: 40 }, (_, i) => i);
  for (const start of ["salted", undefined]) {
    const id = start ?? "plain";
    assert.equal(ledger.admit(id, { tokens, start })?.reused, 0, id);
    ledger.prefilled(id, tokens);
    ledger.promote(id);
    ledger.leave(id);
  }
  const other = { tokens, start: "other" };
  assert.deepEqual([ledger.reusable({ tokens }), ledger.reusable({ tokens, start: "salted" }), ledger.reusable(other)], [39, 39, 0]);
  const [block] = ledger.blocksBehind(other).blocks;
  assert.equal(ledger.slotWith(block!), undefined);
  ledger.wrote(ledger.slotFor(block!)!, tokens.slice(0, 32));
  assert.deepEqual([ledger.reusable(other), ledger.slotWith(block!)?.index !== undefined], [32, true]);
  assert.equal(ledger.admit("again", { tokens, start: "salted" })?.reused, 39);
});
