// Inverse frequencies against those of transformers, for head sizes and bases of real models. The tables made of them are shown right
// at 3,000 tokens by test/contract/golden-families.ts.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { inverseFrequencies, plainRope, ropeTables } from "./rope.ts";

interface Golden {
  readonly magic: string;
  readonly version: number;
  readonly remake: string;
  readonly tables: readonly { readonly headDim: number; readonly base: number; readonly bits: readonly number[] }[];
}

const golden = JSON.parse(readFileSync(join(import.meta.dirname, "../../test/golden/rope.json"), "utf8")) as Golden;
assert.deepEqual([golden.magic, golden.version], ["enodia-golden", 1], `remake with ${golden.remake}`);

/** Units in the last place between two positive f32, of which one is given by its bits. */
const unitsBetween = (value: number, bits: number): number => Math.abs(new Uint32Array(Float32Array.of(value).buffer)[0]! - bits);

test("inverse frequencies are those of transformers; its power may be off by one unit, and seldom is", () => {
  let [all, off] = [0, 0];
  for (const { headDim, base, bits } of golden.tables) {
    for (const [i, value] of inverseFrequencies(headDim, base).entries()) {
      const units = unitsBetween(value, bits[i]!);
      assert.ok(units <= 1, `head size ${headDim}, base ${base}, pair ${i}: ${units} units off`);
      all += 1;
      if (units > 0) off += 1;
    }
  }
  assert.ok(off <= all / 100, `${off} of ${all} are off`);
});

test("tables turn by the angle rounded to f32", () => {
  const { cos, sin } = ropeTables(3_000, plainRope(18, 1e6));
  const inverse = inverseFrequencies(18, 1e6);
  for (const position of [0, 1, 2_999])
    for (let i = 0; i < 9; i++) {
      const angle = Math.fround(position * inverse[i]!);
      assert.deepEqual([cos[position * 9 + i], sin[position * 9 + i]], [Math.fround(Math.cos(angle)), Math.fround(Math.sin(angle))]);
    }
});
