// The slot ledger against a plain picture of KV memory: random requests come, grow and leave; moves are applied as the
// engine would; what every request sees in its slot must be its own tokens.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { reuseTokensMin, SlotLedger, slotsOf } from "./kv-slots.ts";

/** Slots as arrays of what was written: prompt tokens by prefill are positive, decoded ones negative. */
class Memory {
  readonly slots: number[][];
  constructor(count: number) {
    this.slots = Array.from({ length: count }, () => []);
  }
  apply(ledger: SlotLedger): void {
    for (const { from, to, length } of ledger.takeMoves()) {
      assert.ok(from !== to && length > 0);
      this.slots[to] = [...this.slots[from]!.slice(0, length), ...this.slots[to]!.slice(length)];
    }
  }
  write(slot: number, at: number, values: readonly number[]): void {
    const row = this.slots[slot]!;
    assert.ok(row.length >= at, "a gap in the slot");
    row.splice(at, values.length, ...values);
  }
}

const prompts = Array.from({ length: 4 }, (_, shared) =>
  Uint32Array.from({ length: 60 }, (_unused, i) => (i < 20 + shared * 8 ? i + 1 : (shared + 1) * 1000 + i)),
);

test("a slot counts as kept while nobody uses it and its prompt is long enough to be reused", () => {
  const ledger = new SlotLedger(3);
  const prompt = (length: number) => Uint32Array.from({ length }, (_, i) => i);
  for (const [owner, length] of [
    ["short", reuseTokensMin - 1],
    ["long", reuseTokensMin],
  ] as const) {
    ledger.admit(owner, prompt(length));
    ledger.prefilled(owner, prompt(length));
    ledger.promote(owner);
  }
  assert.deepEqual([ledger.used, ledger.kept], [2, 0]);
  ledger.leave("short");
  ledger.leave("long");
  assert.deepEqual([ledger.used, ledger.kept], [0, 1]);
});

test("whatever comes and goes, every request finds its own tokens in its slot, and decoding slots are a prefix", () => {
  const command = fc.record({ act: fc.constantFrom("admit", "prefill", "decode", "leave", "leavePrefill"), pick: fc.nat(1000) });
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 5 }), fc.array(command, { minLength: 60, maxLength: 150, size: "max" }), (count, commands) => {
      const ledger = new SlotLedger(count);
      const memory = new Memory(count);
      const prompt = new Map<string, Uint32Array>();
      const written = new Map<string, number[]>();
      let prefilling: string | undefined;
      let next = 0;
      const check = (): void => {
        memory.apply(ledger);
        const decoding = ledger.decoding();
        assert.ok(decoding.every((id) => id !== undefined));
        for (const [slot, id] of [...decoding, ...(prefilling ? [prefilling] : [])].entries()) {
          const want = written.get(id)!;
          assert.deepEqual(memory.slots[slot]!.slice(0, want.length), want, `${id} in slot ${slot}`);
          assert.equal(ledger.lengthOf(id), want.length);
        }
      };
      for (const { act, pick } of commands) {
        const decoding = ledger.decoding();
        if (act === "admit" && !prefilling) {
          const id = `r${next++}`;
          const tokens = prompts[pick % prompts.length]!.slice(0, 2 + (pick % 59));
          const admission = ledger.admit(id, tokens);
          assert.equal(admission === undefined, decoding.length === count);
          if (!admission) continue;
          assert.ok(admission.reused === 0 || admission.reused >= reuseTokensMin);
          assert.ok(admission.reused <= tokens.length - 2, "at least two tokens are left to compute");
          prefilling = id;
          prompt.set(id, tokens);
          written.set(id, [...tokens.slice(0, admission.reused)]);
        } else if (act === "prefill" && prefilling) {
          const tokens = prompt.get(prefilling)!;
          const done = written.get(prefilling)!;
          const chunk = tokens.slice(done.length, done.length + 1 + (pick % 80));
          memory.apply(ledger);
          memory.write(decoding.length, done.length, [...chunk]);
          written.set(prefilling, [...done, ...chunk]);
          ledger.prefilled(prefilling, chunk);
          if (done.length + chunk.length === tokens.length) {
            ledger.promote(prefilling);
            prefilling = undefined;
          }
        } else if (act === "decode") {
          memory.apply(ledger);
          for (const [slot, id] of decoding.entries()) {
            memory.write(slot, written.get(id)!.length, [-pick - 1]);
            written.get(id)!.push(-pick - 1);
            ledger.advance(id);
          }
        } else if (act === "leave" && decoding.length > 0) ledger.leave(decoding[pick % decoding.length]!);
        else if (act === "leavePrefill" && prefilling) {
          ledger.leave(prefilling);
          prefilling = undefined;
        }
        check();
      }
    }),
    { numRuns: 300 },
  );
});

function finish(ledger: SlotLedger, id: string, prompt: Uint32Array): void {
  const admission = ledger.admit(id, prompt);
  assert.ok(admission);
  ledger.prefilled(id, prompt.slice(admission.reused));
  ledger.promote(id);
}

test("a finished prompt is reused in place, a decoded token never", () => {
  const ledger = new SlotLedger(2);
  const prompt = Uint32Array.from({ length: 40 }, (_, i) => i);
  finish(ledger, "a", prompt);
  for (let i = 0; i < 5; i++) ledger.advance("a");
  ledger.leave("a");
  const longer = Uint32Array.from({ length: 60 }, (_, i) => i);
  assert.deepEqual(ledger.admit("b", longer), { slot: 0, reused: 40 });
  assert.deepEqual(ledger.takeMoves(), []);
});

test("a prompt that is not reusable is kept nowhere", () => {
  const ledger = new SlotLedger(2);
  const prompt = Uint32Array.from({ length: 40 }, (_, i) => i);
  finish(ledger, "a", prompt);
  ledger.leave("a", false);
  assert.equal(ledger.kept, 0);
  assert.deepEqual(ledger.admit("b", prompt), { slot: 0, reused: 0 });
});

test("a short common prefix is computed again", () => {
  const ledger = new SlotLedger(1);
  finish(
    ledger,
    "a",
    Uint32Array.from({ length: 40 }, (_, i) => i),
  );
  ledger.leave("a");
  const other = Uint32Array.from({ length: 40 }, (_, i) => (i < reuseTokensMin - 1 ? i : 99));
  assert.equal(ledger.admit("b", other)?.reused, 0);
});

test("the pool's bytes give whole slots", () => {
  const spec = { layers: 2, kvHeads: 2, context: 10, headDim: 4, valueDim: 4 };
  const slot = 2 * 2 * 2 * 10 * 4 * 4;
  assert.equal(slotsOf(slot - 1, spec), 0);
  assert.equal(slotsOf(slot, spec), 1);
  assert.equal(slotsOf(3 * slot + 5, spec), 3);
});
