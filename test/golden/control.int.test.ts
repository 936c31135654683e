// Negative control on the noisy model: what must not happen would show. The same 20 prompts, asked as the e2e tests ask them, give
// the same texts twice, and other texts when two experts of a layer are swapped, or when gates are ignored. Real model, real engine,
// one worker. Sampled texts change nearly all; greedy ones a fifth to a half within so few tokens.
import assert from "node:assert/strict";
import { copyFile, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, type TestContext, test } from "node:test";
import { createEngine, type Engine } from "../../runtime/engine/engine.ts";
import { loadTokenizer, type ModelTokenizer } from "../../runtime/text/tokenizer.ts";
import { modelDigest } from "../../runtime/weights/digest.ts";
import { asF32 } from "../../runtime/kernels/weights.ts";
import { bytesOf } from "../../runtime/weights/floats.ts";
import { writeSafetensors } from "../../runtime/weights/safetensors-writer.ts";
import type { ModelStore } from "../../runtime/weights/store.ts";
import { openStore } from "../../runtime/weights/store-reader.ts";
import { provideSmolMoe } from "../kit/models/local-models.ts";
import { asked, twentyPrompts } from "../kit/gateway/topics.ts";

const changedMin = { sampled: 15, greedy: 3 } as const;
const ways = ["sampled", "greedy"] as const;
type Texts = Readonly<Record<(typeof ways)[number], readonly string[]>>;

const dir = await mkdtemp(join(tmpdir(), "enodia-control-"));
after(() => rm(dir, { recursive: true }));
const model = await provideSmolMoe(() => undefined);

async function hostAll(engine: Engine, store: ModelStore): Promise<void> {
  const { layers, experts } = store.index;
  for (let layer = 0; layer < layers; layer++) {
    for (let expert = 0; expert < experts; expert++) await engine.loadExpert(layer, expert, await store.readUnit(layer, expert, "q4_0"));
  }
  const hosts = Array.from({ length: experts }, () => [0]);
  const weights = Array.from({ length: experts }, () => [1000]);
  await engine.setRouting({ rank: 0, layers: Array.from({ length: layers }, (_, layer) => ({ layer, epoch: 1, hosts, weights })) });
}

async function start(storeDir: string): Promise<{ readonly engine: Engine; readonly store: ModelStore }> {
  const store = await openStore(storeDir);
  const onDemand = { run: () => Promise.reject(new Error("one worker hosts every expert")) };
  const engine = await createEngine({ storeDir, backend: "cpu", codec: "q4_0", kvPoolBytes: 400_000_000, maxContext: 384, onDemand });
  await hostAll(engine, store);
  return { engine, store };
}

async function answer(engine: Engine, tokenizer: ModelTokenizer, index: number, temperature: number): Promise<string> {
  const ids: number[] = [];
  const prompt = tokenizer.encodeChat([{ role: "user", content: twentyPrompts[index] as string }]);
  const sampling = { temperature, topP: 1, topK: 0, seed: BigInt(asked.seed(index)) };
  const request = { prompt, maxTokens: asked.tokens, sampling, eos: tokenizer.eosIds };
  for await (const event of engine.generate(request)) if (event.type === "token") ids.push(event.id);
  return tokenizer.decode(ids);
}

async function answers(engine: Engine, tokenizer: ModelTokenizer): Promise<Texts> {
  const all = (temperature: number) => Promise.all(twentyPrompts.map((_, index) => answer(engine, tokenizer, index, temperature)));
  return { sampled: await all(asked.temperature), greedy: await all(0) };
}

function assertChanged(t: TestContext, what: string, want: Texts, got: Texts): void {
  for (const way of ways) {
    const changed = want[way].filter((text, i) => text !== got[way][i]).length;
    t.diagnostic(`${what}: ${changed} of ${want[way].length} ${way} texts differ`);
    assert.ok(changed >= changedMin[way], `only ${changed} of ${want[way].length} ${way} texts differ`);
  }
}

/** The same store with every router's rows divided by 2^20: the same experts in the same order, all gates alike. */
async function storeWithoutGates(): Promise<string> {
  const store = await openStore(model);
  const tensors = store.denseNames.map((name) => ({ name, read: () => store.readDense(name) }));
  const shapes = new Map(await Promise.all(tensors.map(async ({ name, read }) => [name, (await read()).shape] as const)));
  for (const name of ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]) await copyFile(join(model, name), join(dir, name));
  for (const { file } of Object.values(store.index.codecs)) await symlink(join(model, file), join(dir, file));
  const dense = await writeSafetensors(
    join(dir, "dense.safetensors"),
    tensors.map(({ name, read }) => ({
      name,
      dtype: "F32" as const,
      shape: shapes.get(name) ?? [],
      read: async () => {
        const data = asF32(await read());
        return bytesOf(name.endsWith("block_sparse_moe.gate.weight") ? data.map((value) => value / 2 ** 20) : data);
      },
    })),
  );
  const index = JSON.parse(await readFile(join(model, "expert-index.json"), "utf8"));
  const digest = modelDigest(await readFile(join(dir, "config.json"), "utf8"), { dense, codecs: index.codecs });
  await writeFile(join(dir, "expert-index.json"), JSON.stringify({ ...index, dense, modelDigest: digest }));
  await store.close();
  return dir;
}

/** Texts of an engine of its own: what is cached of a prompt depends on the experts that computed it. */
async function textsOf(storeDir: string, change: (engine: Engine, store: ModelStore) => Promise<void> = async () => {}): Promise<Texts> {
  const { engine, store } = await start(storeDir);
  try {
    await change(engine, store);
    return await answers(engine, await loadTokenizer(model));
  } finally {
    await engine.close();
    await store.close();
  }
}

test("the same texts twice, other texts with two experts swapped or with gates ignored", { timeout: 1_800_000 }, async (t) => {
  const want = await textsOf(model);
  assert.deepEqual(await textsOf(model), want, "the same prompts and seeds gave other texts");
  for (const layer of [3, 15]) {
    const swapped = await textsOf(model, async (engine, store) => {
      for (const expert of [0, 1]) await engine.unloadExpert(layer, expert);
      for (const expert of [0, 1]) await engine.loadExpert(layer, expert, await store.readUnit(layer, 1 - expert, "q4_0"));
    });
    assertChanged(t, `experts 0 and 1 of layer ${layer} swapped`, want, swapped);
  }
  assertChanged(t, "gates ignored", want, await textsOf(await storeWithoutGates()));
});
