// Plans of scratch memory: values that live together never overlap, and dead ones give their place away.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { arenaAlignment, type Lifetime, planArena } from "./arena.ts";

test("values that live at the same time do not overlap, and every place is aligned and within the plan", () => {
  const lifetime = fc
    .record({
      bytes: fc.integer({ min: 0, max: 5_000 }),
      from: fc.nat(20),
      length: fc.oneof(fc.nat(8), fc.integer({ min: 120, max: 140 })),
    })
    .map(({ bytes, from, length }): Lifetime => ({ bytes, from, to: from + length }));
  fc.assert(
    fc.property(fc.array(lifetime, { maxLength: 40 }), (values) => {
      const { offsets, bytes } = planArena(values);
      for (const [i, a] of values.entries()) {
        assert.equal(offsets[i]! % arenaAlignment, 0);
        assert.ok(offsets[i]! + a.bytes <= bytes);
        for (const [j, b] of values.entries()) {
          if (i >= j || a.bytes === 0 || b.bytes === 0 || a.to < b.from || b.to < a.from) continue;
          assert.ok(offsets[i]! + a.bytes <= offsets[j]! || offsets[j]! + b.bytes <= offsets[i]!, `${i} and ${j} overlap`);
        }
      }
    }),
  );
});

test("a chain of values needs the memory of two, however long it is", () => {
  const chain = (length: number): Lifetime[] => Array.from({ length }, (_, i) => ({ bytes: 640, from: i, to: i + 1 }));
  assert.equal(planArena(chain(3)).bytes, 1_280);
  assert.equal(planArena(chain(300)).bytes, 1_280);
});
