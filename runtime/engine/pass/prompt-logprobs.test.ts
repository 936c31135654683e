// Log-probabilities of prompts' tokens, in the whole engine on the tiny checkpoint: the same as of a text that was made, alone, with mates,
// in chunks, over ranks, and where a beginning is kept.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { after, before, test } from "node:test";
import { importMoe } from "../../modelstore/import-moe.ts";
import type { ModelStore } from "../../weights/store.ts";
import { openStore } from "../../weights/store-reader.ts";
import { createEngine, type Engine, type EngineOptions, type GenerateEvent, type GenerateRequest, type RemoteExperts } from "../engine.ts";

const golden = resolve(import.meta.dirname, "../../../test/golden/tiny-f32");
const context = 96;
const kvPoolBytes = 8 * 2 * 2 * 2 * context * 16 * 4; // 8 slots of 2 layers, 2 kv heads of 16
const sampling = { temperature: 0, topP: 1, topK: 0, seed: 1n, logprobs: true, topLogprobs: 2 };
const root = mkdtempSync(join(tmpdir(), "enodia-prompts-"));
const storeDir = join(root, "tiny");
const engines: Engine[] = [];
let store: ModelStore;

before(async () => {
  await importMoe({ from: golden, out: storeDir, codecs: ["f32"], overwrite: true }, () => {});
  store = await openStore(storeDir);
});
after(async () => {
  for (const engine of engines) await engine.close();
  await store.close();
  rmSync(root, { recursive: true, force: true });
});

const alone: RemoteExperts = { dispatch: () => Promise.reject(new Error("nobody else is there")) };

async function start(options: Partial<EngineOptions> = {}, hosts: (expert: number) => boolean = () => true): Promise<Engine> {
  const common = { storeDir, codec: "f32", kvPoolBytes, maxContext: context, threads: 1, remote: alone, backend: "cpu" } as const;
  const engine = await createEngine({ ...common, ...options });
  engines.push(engine);
  const { layers, experts, codec } = engine.describe();
  for (let layer = 0; layer < layers; layer++)
    for (let expert = 0; expert < experts; expert++)
      if (hosts(expert)) await engine.loadExpert(layer, expert, await store.readUnit(layer, expert, codec));
  return engine;
}

async function collect(engine: Engine, request: Pick<GenerateRequest, "prompt"> & Partial<GenerateRequest>): Promise<GenerateEvent[]> {
  const events: GenerateEvent[] = [];
  for await (const event of engine.generate({ maxTokens: 1, sampling, eos: [], ...request })) events.push(event);
  return events;
}

/** Of each token but the first: its log-probability, and the two likeliest tokens of its place. */
async function worths(engine: Engine, prompt: readonly number[]): Promise<(readonly number[])[]> {
  const events = await collect(engine, { prompt, promptLogprobs: true });
  const told: (readonly number[])[] = [];
  for (const event of events) {
    if (event.type === "token") assert.equal(told.length, prompt.length - 1, "all of them come before the first token");
    if (event.type !== "prompt") continue;
    assert.equal(event.position, told.length + 1);
    told.push(...event.tokens.map(({ logprob, top }) => [logprob, ...(top?.ids ?? []), ...(top?.logprobs ?? [])]));
  }
  assert.equal(events.at(-1)?.type, "finish");
  return told;
}

const prompt = (seed: number, length: number): number[] =>
  Array.from({ length }, (_, i) => ((seed + 1) * 7919 + i * i * 31 + i * 17) % 320);

for (const backend of ["reference", "cpu"] as const) {
  test(`${backend}: a text that was made is worth as prompt what it was worth when it was made`, async () => {
    const engine = await start({ backend });
    const given = prompt(0, 7);
    const made = (await collect(engine, { prompt: given, maxTokens: 20 })).flatMap((event) => (event.type === "token" ? [event] : []));
    const told = await worths(engine, [...given, ...made.map(({ id }) => id)]);
    assert.deepEqual(
      told.slice(given.length - 1),
      made.map(({ logprob, top }) => [logprob, ...(top?.ids ?? []), ...(top?.logprobs ?? [])]),
    );
  });

  test(`${backend}: prompts are worth the same alone, with mates, in chunks, over ranks and after a beginning that is kept`, async () => {
    const prompts = [1, 2, 40, 23, 65].map((length, seed) => prompt(seed, length));
    const longer = [...(prompts[2] as number[]), 5, 6, 7];
    const engine = await start({ backend });
    const want: (readonly number[])[][] = [];
    for (const one of [...prompts, longer]) want.push(await worths(engine, one));
    assert.deepEqual(want[0], [], "nothing stands before a first token");
    const other = await start({ backend }, (expert) => expert % 2 === 1);
    const remote: RemoteExperts = { dispatch: (frame) => other.runExperts(frame) };
    const chunked = await start({ backend, remote, limits: { prefillChunkTokens: 3 } }, (expert) => expert % 2 === 0);
    for (const one of [engine, chunked]) {
      const mates = [collect(one, { prompt: prompt(9, 12), maxTokens: 60 }), collect(one, { prompt: longer, maxTokens: 4 })];
      assert.deepEqual(await Promise.all([...prompts, longer].map((each) => worths(one, each))), want);
      await Promise.all(mates);
    }
    assert.equal((await engine.stats()).slotsUsed, 0);
  });
}

test("who does not ask is told nothing, and reuses what is kept; who asks has all of it computed", async () => {
  const engine = await start();
  const long = prompt(3, 60);
  const types = (events: readonly GenerateEvent[]) => events.map(({ type }) => type);
  const reused = (events: readonly GenerateEvent[]) => events.map((event) => (event.type === "started" ? event.cachedPromptTokens : 0));
  assert.ok(!types(await collect(engine, { prompt: long })).includes("prompt"));
  assert.ok(Math.max(...reused(await collect(engine, { prompt: long }))) > 0);
  assert.equal(Math.max(...reused(await collect(engine, { prompt: long, promptLogprobs: true }))), 0);
});

test("a request that is taken back in the middle of its prompt leaves nothing behind", async () => {
  const engine = await start({ limits: { maxBatchTokens: 4, prefillChunkTokens: 4 } });
  for await (const event of engine.generate({ maxTokens: 1, sampling, eos: [], prompt: prompt(1, 80), promptLogprobs: true }))
    if (event.type === "prompt") break;
  assert.equal((await worths(engine, prompt(1, 80))).length, 79);
  assert.equal((await engine.stats()).slotsUsed, 0);
});
