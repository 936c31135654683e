// Log-probabilities of prompts' tokens, in the whole engine on the tiny checkpoint: the same as of a text that was made, alone, with mates,
// in chunks, over ranks, and where a beginning is kept.
import assert from "node:assert/strict";
import { test } from "node:test";
import { collect as collected, engineWorld, greedy, promptOf as prompt } from "../../../test/kit/ranks/loaded-engine.ts";
import type { Engine, GenerateEvent, OnDemandExperts } from "../engine.ts";
import { PromptLogprobs } from "./prompt-logprobs.ts";

const sampling = { ...greedy, logprobs: true, topLogprobs: 2 };
const { start } = await engineWorld({ threads: 1 });

const collect = (engine: Engine, request: Parameters<typeof collected>[1]): Promise<GenerateEvent[]> =>
  collected(engine, { maxTokens: 1, sampling, ...request });

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
    const other = await start({ backend }, (_, expert) => expert % 2 === 1);
    const onDemand: OnDemandExperts = { run: (frame) => other.runExperts(frame) };
    const chunked = await start({ backend, onDemand, limits: { prefillChunkTokens: 3 } }, (_, expert) => expert % 2 === 0);
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

test("only steps with rows that rate a prompt's token read rows", () => {
  const ports = { head: { each: () => Promise.resolve() }, vocab: 8, between: () => undefined, tell: () => undefined };
  const prompts = new PromptLogprobs(ports);
  prompts.add("asked", Uint32Array.of(1, 2, 3, 4));
  const wants = (id: string, phase: "prefill" | "decode", past: number, tokens: number): boolean =>
    prompts.wants({ groups: [{ phase, ids: [id], firstSlot: 0, batch: 1, tokens, past: Int32Array.of(past) }] });
  assert.ok(wants("asked", "prefill", 0, 2));
  assert.ok(!wants("asked", "prefill", 3, 1), "nothing comes after the last token");
  assert.ok(!wants("asked", "decode", 4, 1));
  assert.ok(!wants("other", "prefill", 0, 2));
});
