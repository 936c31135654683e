import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { blockIds, prefixIds, prefixRoot } from "../../net/prefix-ids.ts";
import { type Holder, PrefixIndex, reuseTokensMin } from "./prefixes.ts";

const tokens = fc.array(fc.integer({ min: 0, max: 1 }), { maxLength: 5 * reuseTokensMin });

/** Texts that begin alike: pieces of tokens that are zeros but for a few. */
const text = fc
  .tuple(fc.integer({ min: 0, max: 70 }), tokens)
  .map(([zeros, rest]) => Uint32Array.from([...new Array<number>(zeros).fill(0), ...rest]));

test("the index finds what a comparison with every holder finds, as they grow and shrink", () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(text, fc.nat(200)), { minLength: 1, maxLength: 6 }), text, (holders, prompt) => {
      const index = new PrefixIndex<Holder>(prefixIds("model"));
      const all = holders.map(([held]) => ({ tokens: held, reusable: held.length, start: "", ids: [] as string[] }));
      for (const holder of all) index.update(holder);
      for (const [i, [, cut]] of holders.entries()) {
        all[i]!.reusable = Math.min(all[i]!.reusable, cut);
        index.update(all[i]!);
      }
      const limit = prompt.length - 1;
      const lengths = all.map(({ tokens: held, reusable }) => {
        let length = 0;
        while (length < Math.min(limit, reusable) && held[length] === prompt[length]) length += 1;
        return length;
      });
      const most = Math.max(...lengths);
      const found = index.find({ tokens: prompt }, limit, () => false);
      assert.equal(found?.length ?? 0, most >= reuseTokensMin ? most : 0);
      if (found) assert.equal(lengths[all.indexOf(found.holder as (typeof all)[0])], most);
    }),
    { numRuns: 200 },
  );
});

test("what is told of blocks that came and went adds up to those that holders have, as a gateway names them", () => {
  fc.assert(
    fc.property(fc.array(fc.array(fc.tuple(text, fc.nat(300)), { maxLength: 4 }), { maxLength: 4 }), (rounds) => {
      const index = new PrefixIndex<Holder>(prefixIds("model"));
      const holders = new Map<number, Holder>();
      const told = new Set<string>();
      for (const round of rounds) {
        for (const [at, [zeros, cut]] of round.entries()) {
          const tokens = Uint32Array.from([...zeros, ...zeros, ...zeros, ...zeros]);
          const before = holders.get(at);
          if (before !== undefined) index.update(Object.assign(before, { reusable: 0 }));
          const holder: Holder = { tokens, reusable: Math.min(cut, tokens.length), start: "", ids: [] };
          holders.set(at, holder);
          index.update(holder);
        }
        const changed = index.takeChanged();
        for (const id of changed?.gained ?? []) told.add(id);
        for (const id of changed?.lost ?? []) told.delete(id);
      }
      const chain = { root: prefixRoot("model"), salt: "" };
      const there = [...holders.values()].flatMap(({ tokens, reusable }) => blockIds(tokens.subarray(0, reusable), chain, 99));
      assert.deepEqual(told, new Set(there));
    }),
  );
});

test("an identity is that of all tokens before, of the model and of the class of bits, wherever it is made", () => {
  const index = new PrefixIndex<Holder>(prefixIds("model", "exact: f32"));
  const held = Uint32Array.from({ length: 40 }, (_, i) => i);
  const holder: Holder = { tokens: held, reusable: 40, start: "", ids: [] };
  index.update(holder);
  assert.deepEqual(
    holder.ids,
    [16, 32].map((length) => index.idOf({ tokens: held.slice() }, length)),
  );
  assert.deepEqual([...index.having(holder.ids[1]!)], [holder]);
  const others = [prefixIds("model", "exact: f16"), prefixIds("other", "exact: f32"), prefixIds("mode", "lexact: f32")];
  const ids = [prefixIds("model", "exact: f32"), ...others].map((idOf) => new PrefixIndex<Holder>(idOf).idOf({ tokens: held }, 32));
  assert.equal(ids[0], holder.ids[1]);
  for (const at of [0, 31]) ids.push(index.idOf({ tokens: held.with(at, 99) }, 32));
  ids.push(index.idOf({ tokens: held, start: "salt" }, 32));
  assert.equal(new Set(ids).size, ids.length);
  assert.ok(ids.every((id) => /^[0-9a-f]{32}$/.test(id)));
});
