import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type Holder, PrefixIndex, reuseTokensMin } from "./prefixes.ts";

const tokens = fc.array(fc.integer({ min: 0, max: 1 }), { maxLength: 5 * reuseTokensMin });

/** Texts that begin alike: pieces of tokens that are zeros but for a few. */
const text = fc
  .tuple(fc.integer({ min: 0, max: 70 }), tokens)
  .map(([zeros, rest]) => Uint32Array.from([...new Array<number>(zeros).fill(0), ...rest]));

test("the index finds what a comparison with every holder finds, as they grow and shrink", () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(text, fc.nat(200)), { minLength: 1, maxLength: 6 }), text, (holders, prompt) => {
      const index = new PrefixIndex<Holder>();
      const all = holders.map(([held]) => ({ tokens: held, reusable: held.length, hashes: [] as number[] }));
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
      const found = index.find(prompt, limit, () => false);
      assert.equal(found?.length ?? 0, most >= reuseTokensMin ? most : 0);
      if (found) assert.equal(lengths[all.indexOf(found.holder as (typeof all)[0])], most);
    }),
    { numRuns: 200 },
  );
});

test("tokens that hash alike but differ are not taken for each other", () => {
  const index = new PrefixIndex<Holder>();
  const held = new Uint32Array(40).fill(3);
  const holder: Holder = { tokens: held, reusable: 40, hashes: [] };
  index.update(holder);
  held.fill(4, 0, 16); // as if another text had the hash of the first tokens
  assert.equal(
    index.find(new Uint32Array(40).fill(3), 39, () => false),
    undefined,
  );
});
