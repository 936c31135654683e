// An engine whose experts hold NaN or infinity: a request that meets one ends with an error that names its logits, and only that one.
// Import and `inspect --verify` find such weights before; a device that computes wrongly shows in the same way.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { CodecName } from "../../crds/names.ts";
import { collect as collected, engineWorld, promptOf as prompt, tokensOf } from "../../test/kit/ranks/loaded-engine.ts";
import { codecFor } from "../weights/codecs/index.ts";
import { f16Bits } from "../weights/floats.ts";
import type { Engine, GenerateEvent } from "./engine.ts";

const { store, start } = await engineWorld({ codecs: ["f32", "iq4_nl"], kvPoolBytes: 1 << 20 });

/** Gives the engine other bytes of an expert: `value` in the first weight of w2, for iq4_nl in the scale of its first block; as they
 *  are stored without a value. */
async function replace(engine: Engine, layer: number, expert: number, value?: number): Promise<void> {
  const codec = engine.describe().codec as CodecName;
  const unit = new Uint8Array(await store.readUnit(layer, expert, codec));
  const w2 = codecFor(codec).unitBytes([{ name: "w1", shape: [96, 64] }]);
  const view = new DataView(unit.buffer);
  if (value !== undefined && codec === "f32") view.setFloat32(w2, value, true);
  else if (value !== undefined) view.setUint16(w2, f16Bits(value), true);
  await engine.unloadExpert(layer, expert);
  await engine.loadExpert(layer, expert, unit);
}

const collect = (engine: Engine, tokens: readonly number[], temperature = 0): Promise<GenerateEvent[]> =>
  collected(engine, { prompt: tokens, maxTokens: 2, sampling: { temperature, topP: 1, topK: 0, seed: 1n } });

for (const backend of ["cpu", "reference"] as const)
  for (const codec of ["f32", "iq4_nl"] as const)
    test(`${backend}, ${codec}: NaN, infinity and what has no square end the requests that meet them with an error that names the logits, and no others`, async () => {
      const engine = await start({ backend, codec });
      const prompts = Array.from({ length: 16 }, (_, i) => prompt(i, 1 + (i % 2)));
      const all = () => Promise.allSettled(prompts.map(async (tokens, i) => tokensOf(await collect(engine, tokens, i % 2))));
      const want = await all();
      for (const value of [Number.NaN, Number.POSITIVE_INFINITY, 1e30]) {
        await replace(engine, 1, 2, value);
        const results = await all();
        const failed = results.flatMap((result) => (result.status === "rejected" ? [result.reason] : []));
        assert.ok(failed.length > 0 && failed.length < results.length, `${failed.length} of ${results.length} failed`);
        for (const error of failed) {
          assert.equal(error.code, "UnusableLogits");
          assert.match(error.message, /logit.* is (NaN|-?Infinity|-?[\d.]+e\+\d+): check the model/);
        }
        for (const [i, result] of results.entries()) if (result.status === "fulfilled") assert.deepEqual(result, want[i]);
      }
      await replace(engine, 1, 2);
      assert.deepEqual(await all(), want, "nothing stays behind");
      assert.equal((await engine.stats()).slotsUsed, 0);
    });

test("no later prompt is built on one whose numbers were none", async () => {
  const engine = await start({ backend: "cpu", codec: "f32" });
  const long = prompt(8, 40);
  for (let expert = 0; expert < 4; expert++) await replace(engine, 0, expert, Number.NaN);
  await assert.rejects(collect(engine, long), { code: "UnusableLogits" });
  assert.equal((await engine.stats()).slotsKept, 0);
  for (let expert = 0; expert < 4; expert++) await replace(engine, 0, expert);
  const events = await collect(engine, [...long, 5, 6, 7]);
  assert.equal(events[1]?.type === "started" && events[1].cachedPromptTokens, 0);
  assert.deepEqual(tokensOf(events), tokensOf(await collect(await start({ backend: "cpu", codec: "f32" }), [...long, 5, 6, 7])));
});
