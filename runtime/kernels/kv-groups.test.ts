// Groups of rows: a range of them has the places of those rows of the whole, and a call that does not fit a cache is refused by its field.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { checkKvGroups, type KvGroup, placesOf, rangeOfGroups, rowsOfGroups } from "./kv-groups.ts";

const shapes = fc.array(fc.record({ past: fc.array(fc.nat(9), { minLength: 1, maxLength: 4 }), tokens: fc.integer({ min: 1, max: 7 }) }), {
  minLength: 1,
  maxLength: 5,
});

/** Groups one after another in the slots of a cache. */
function laid(list: readonly { readonly past: readonly number[]; readonly tokens: number }[]): KvGroup[] {
  let slot = 0;
  return list.map(({ past, tokens }) => {
    const group = { firstSlot: slot, batch: past.length, tokens, past: Int32Array.from(past) };
    slot += past.length;
    return group;
  });
}

test("ranges of rows, one after another, have the places of the whole", () => {
  fc.assert(
    fc.property(shapes, fc.integer({ min: 1, max: 12 }), (list, size) => {
      const groups = laid(list);
      const rows = rowsOfGroups(groups);
      const want = placesOf(groups);
      assert.equal(want.length, rows);
      const ranges: KvGroup[][] = [];
      for (let from = 0; from < rows; from += size) ranges.push(rangeOfGroups(groups, from, Math.min(size, rows - from)));
      assert.deepEqual(ranges.flatMap(placesOf), want);
      for (const range of ranges) {
        assert.ok(range.every(({ batch, past }) => batch === past.length && batch > 0));
        checkKvGroups(range, { context: 16, slots: 20 }, rowsOfGroups(range));
      }
    }),
  );
});

test("slots with the same number of tokens stay one group", () => {
  const [decode] = laid([{ past: [4, 9, 2, 7], tokens: 1 }]);
  assert.deepEqual(rangeOfGroups([decode!], 1, 2), [{ firstSlot: 1, batch: 2, tokens: 1, past: Int32Array.of(9, 2) }]);
});

test("what does not fit is refused by name", () => {
  const cache = { context: 8, slots: 2 };
  const group = (rest: Partial<KvGroup>): KvGroup => Object.assign({ firstSlot: 0, batch: 1, tokens: 2, past: Int32Array.of(0) }, rest);
  checkKvGroups([group({ past: Int32Array.of(6) }), group({ firstSlot: 1 })], cache, 4);
  for (const [groups, want] of [
    [[group({ past: Int32Array.of(7) })], /past\[0\] = 7 plus 2 tokens exceeds the context of 8/],
    [[group({ firstSlot: 2 })], /slots 2..2 are not within 0..1/],
    [[group({ tokens: 0 })], /no rows/],
    [[group({ batch: 2 })], /past has 1 entries for a batch of 2/],
    [[group({}), group({ past: Int32Array.of(2) })], /slot 0 is in two groups/],
    [[group({ tokens: 3 })], /3 rows, 2 are given/],
  ] as const)
    assert.throws(() => checkKvGroups(groups, cache, 2), { code: "InvalidArgument", message: want });
});
