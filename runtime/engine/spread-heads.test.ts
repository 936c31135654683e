// Heads of a long prompt over ranks: engines with real connections give the text of one rank, move what an all-to-all of heads moves, and
// lose a rank in the middle without losing more than time.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { type LinkedEngines, linkEngines } from "../../test/kit/ranks/linked-engines.ts";
import { engineWorld, goldenCheckpoints, promptOf, textOf } from "../../test/kit/ranks/loaded-engine.ts";
import { until } from "../../test/kit/wait.ts";
import { programOf } from "../models/index.ts";
import type { Engine, EngineOptions } from "./engine.ts";

const tiny = "tiny-f32";
/** Four heads of keys, as wide as no value. */
const latent = join("families", "deepseek-v3");
const [from, longest] = [60, 200];
const lengths = [from, 97, longest];

type World = LinkedEngines & { readonly engine: Engine };

async function worldOf(t: TestContext, checkpoint: string, ranks: number, options: Partial<EngineOptions> = {}): Promise<World> {
  const spread = { prefillParallelism: ranks, prefillParallelismFrom: from, maxContext: 256, kvPoolBytes: 1 << 22, ...options };
  const { start } = await engineWorld({ checkpoint, ...spread });
  const engines = await Promise.all(Array.from({ length: ranks }, () => start()));
  const linked = await linkEngines(engines);
  t.after(() => linked.close());
  return Object.assign(linked, { engine: engines[0] as Engine });
}

for (const checkpoint of [tiny, latent])
  test(`${checkpoint}: prompts have the text of one rank on 2 and 4, and heads move as an all-to-all moves them`, async (t) => {
    const inTurn = async ({ engine }: World): Promise<number[][]> => {
      const said: number[][] = [];
      for (const length of lengths) said.push(await textOf(engine, { prompt: promptOf(length, length) }));
      return said;
    };
    const want = await inTurn(await worldOf(t, checkpoint, 1));
    for (const ranks of [2, 4]) {
      const world = await worldOf(t, checkpoint, ranks);
      assert.deepEqual(await inTurn(world), want);
      const program = programOf(JSON.parse(readFileSync(join(goldenCheckpoints, checkpoint, "config.json"), "utf8")));
      const { layers, heads, kvHeads, headDim, valueDim } = program;
      const others = 1 - 1 / Math.min(ranks, kvHeads);
      const tokens = lengths.reduce((sum, length) => sum + length, 0);
      const moved = 4 * layers.length * tokens * (heads + kvHeads) * (headDim + valueDim) * others;
      await until("the bytes are counted", () => world.bytes() >= moved);
      assert.equal(world.bytes(), moved);
      const atOnce = lengths.map((length) => textOf(world.engine, { prompt: promptOf(length, length) }));
      assert.deepEqual(await Promise.all(atOnce), want, "also where prompts come at once, and were said before");
    }
  });

test("a prompt that is shorter stays on its rank, and so does one whose other rank attends for nobody", async (t) => {
  const { engine, bytes } = await worldOf(t, tiny, 2);
  await textOf(engine, { prompt: promptOf(1, from - 1) });
  assert.equal(bytes(), 0);
  const { start } = await engineWorld({ maxContext: 256, kvPoolBytes: 1 << 22 });
  const alone = await start();
  const asking = await start({ prefillParallelism: 2, prefillParallelismFrom: from });
  const linked = await linkEngines([asking, alone]);
  t.after(() => linked.close());
  const [got, want] = [asking, alone].map((each) => textOf(each, { prompt: promptOf(2, longest) }));
  assert.deepEqual(await got, await want);
  assert.equal(linked.bytes(), 0);
});

test("a rank that is lost in the middle of a prompt costs time alone", async (t) => {
  const limits = { maxBatchTokens: 16 };
  const prompts = [3, 4].map((seed) => promptOf(seed, longest));
  const { engine: alone } = await worldOf(t, tiny, 1, { limits });
  const { engine, links } = await worldOf(t, tiny, 2, { limits });
  const [link] = links as [LinkedEngines["links"][number]];
  const before = link.bytes;
  for (const prompt of prompts) {
    const text = textOf(engine, { prompt });
    if (prompt === prompts[0]) await until("some heads have moved", () => link.bytes > before + 20_000);
    link.kill();
    assert.deepEqual(await text, await textOf(alone, { prompt }));
  }
});
