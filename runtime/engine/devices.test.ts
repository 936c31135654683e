// An engine whose model's layers lie on two devices gives the texts of one, greedy and sampled, with prompts that are begun alike;
// where rows carry more from layer to layer, too.
import assert from "node:assert/strict";
import { test } from "node:test";
import { engineWorld, textOf } from "../../test/kit/ranks/loaded-engine.ts";
import type { Engine } from "./engine.ts";

for (const checkpoint of ["tiny-f32", "families/moe-plus-plus", "families/momentum-smoe"])
  test(`${checkpoint}: the texts are the same where the model's layers lie on two devices`, async () => {
    const { start } = await engineWorld({ checkpoint, kvPoolBytes: 1 << 20 });
    const [one, two] = [await start({ devices: 1 }), await start({ devices: 2 })];
    const text = (engine: Engine, length: number): Promise<number[]> =>
      textOf(engine, {
        prompt: Array.from({ length }, (_, i) => (i * 31 + 7) % 320),
        sampling: { temperature: length % 2, topP: 0.9, topK: 20, seed: BigInt(length) },
      });
    const texts = (engine: Engine) => Promise.all([5, 2, 40, 41, 23].map((length) => text(engine, length)));
    assert.match(two.describe().device, /^2 devices: /);
    assert.equal(two.describe().numerics, one.describe().numerics);
    assert.equal(two.describe().kvBytes, one.describe().kvBytes);
    for (const want of [await texts(one), await texts(one)]) assert.deepEqual(await texts(two), want, "the second time from what is kept");
  });
