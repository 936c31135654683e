// The noisy model's experts all differ, as the tests of texts and of moves assume: were two alike, swapping them would show nothing.
import assert from "node:assert/strict";
import { test } from "node:test";
import { openStore } from "../../runtime/weights/store-reader.ts";
import { provideSmolMoe } from "../kit/models/local-models.ts";

test("no two experts of the noisy model have the same bytes, in either codec", async () => {
  const { index, close } = await openStore(await provideSmolMoe(() => undefined));
  await close();
  const count = index.layers * index.experts;
  assert.equal(count, 240);
  const distinct = Object.entries(index.codecs).map(([codec, { units }]) => [codec, new Set(units.flat().map(({ sha256 }) => sha256)).size]);
  assert.deepEqual(Object.fromEntries(distinct), { q4_0: count, f32: count });
});
