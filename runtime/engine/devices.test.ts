// An engine whose model's layers lie on two devices gives the texts of one, greedy and sampled, with prompts that are begun alike;
// where rows carry more from layer to layer, too.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { test } from "node:test";
import { importMoe } from "../modelstore/import-moe.ts";
import { openStore } from "../weights/store-reader.ts";
import { createEngine, type Engine } from "./engine.ts";

for (const name of ["tiny-f32", "families/moe-plus-plus", "families/momentum-smoe"])
  test(`${name}: the texts are the same where the model's layers lie on two devices`, async () => {
    const root = mkdtempSync(join(tmpdir(), "enodia-devices-"));
    const storeDir = join(root, "tiny");
    await importMoe(
      { from: resolve(import.meta.dirname, "../../test/golden", name), out: storeDir, codecs: ["f32"], overwrite: false },
      () => {},
    );
    const store = await openStore(storeDir);
    const start = async (devices: number): Promise<Engine> => {
      const remote = { dispatch: () => Promise.reject(new Error("nobody else is there")) };
      const engine = await createEngine({ storeDir, backend: "cpu", codec: "f32", kvPoolBytes: 1 << 20, maxContext: 96, devices, remote });
      for (let layer = 0; layer < store.index.layers; layer++)
        for (let expert = 0; expert < store.index.experts; expert++)
          await engine.loadExpert(layer, expert, await store.readUnit(layer, expert, "f32"));
      return engine;
    };
    const [one, two] = [await start(1), await start(2)];
    const text = async (engine: Engine, length: number): Promise<number[]> => {
      const tokens: number[] = [];
      const prompt = Array.from({ length }, (_, i) => (i * 31 + 7) % 320);
      const sampling = { temperature: length % 2, topP: 0.9, topK: 20, seed: BigInt(length) };
      for await (const event of engine.generate({ prompt, maxTokens: 12, sampling, eos: [] }))
        if (event.type === "token") tokens.push(event.id);
      return tokens;
    };
    try {
      const texts = (engine: Engine) => Promise.all([5, 2, 40, 41, 23].map((length) => text(engine, length)));
      assert.match(two.describe().device, /^2 devices: /);
      assert.equal(two.describe().numerics, one.describe().numerics);
      assert.equal(two.describe().kvBytes, one.describe().kvBytes);
      for (const want of [await texts(one), await texts(one)])
        assert.deepEqual(await texts(two), want, "the second time from what is kept");
    } finally {
      await Promise.all([one.close(), two.close(), store.close()]);
      rmSync(root, { recursive: true });
    }
  });
