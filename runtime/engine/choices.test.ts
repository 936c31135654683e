// Wishes of a request about its tokens, in the whole engine on the tiny checkpoint: penalties, bias, the likeliest tokens, JSON alone, a
// place in the queue; and the vector of a text. All of it depends on the request alone: with mates, in chunks, over ranks, after a replay.
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  collect,
  engineWorld,
  greedy,
  promptOf as prompt,
  textOf as text,
  tinyKvPoolBytes,
  tokensOf,
} from "../../test/kit/ranks/loaded-engine.ts";
import type { Constraint } from "../constraints/language.ts";
import { loadTokenizer } from "../text/tokenizer.ts";
import type { Engine, OnDemandExperts } from "./engine.ts";

const jsonObject = { name: "json_object", spec: "" } as const;
const backends = ["reference", "cpu"] as const;
const { storeDir, start } = await engineWorld({ threads: 1 });
const tokenizer = await loadTokenizer(storeDir);
const engine = await start();

async function vector(engine: Engine, tokens: readonly number[]): Promise<Float32Array> {
  const events = await collect(engine, { prompt: tokens, maxTokens: 1, embed: true });
  assert.deepEqual(
    events.map(({ type }) => type),
    ["queued", "started", "embedding", "finish"],
  );
  const found = events.find((event) => event.type === "embedding");
  return found?.type === "embedding" ? found.values : assert.fail();
}

for (const backend of backends)
  test(`${backend}: the vector of a text is the same alone, with mates, in chunks, after its beginning, and over ranks`, async () => {
    const prompts = [1, 40, 2, 23, 65].map((length, seed) => prompt(seed, length));
    const longer = [...(prompts[1] as number[]), 5, 6, 7];
    const one = await start({ backend });
    const fresh = await vector(one, longer);
    const want: Float32Array[] = [];
    for (const tokens of prompts) want.push(await vector(one, tokens));
    for (const values of want) assert.ok(Math.abs(values.reduce((sum, value) => sum + value * value, 0) - 1) < 1e-5);
    assert.equal(new Set(want.map(String)).size, prompts.length);
    const other = await start({ backend }, (_, expert) => expert % 2 === 1);
    const onDemand: OnDemandExperts = { run: (frame) => other.runExperts(frame) };
    const chunked = await start({ backend, onDemand, limits: { prefillChunkTokens: 3 } }, (_, expert) => expert % 2 === 0);
    const mates = [one, chunked].map((engine) => text(engine, { prompt: prompt(9, 12), maxTokens: 60 }));
    for (const engine of [one, chunked])
      assert.deepEqual(await Promise.all(prompts.map((tokens) => vector(engine, tokens))), want, "with mates");
    assert.deepEqual(await vector(one, longer), fresh, "after its beginning");
    const said = await Promise.all(mates);
    assert.deepEqual(said[0], said[1]);
    assert.equal((await one.stats()).slotsUsed, 0);
  });

test("penalties and bias change the text, which goes on the same after a replay and beside mates", async () => {
  const plain = await text(engine, { prompt: prompt(3, 9), maxTokens: 30 });
  for (const sampling of [
    { ...greedy, repetitionPenalty: 3 },
    { ...greedy, presencePenalty: 2, frequencyPenalty: 2, bias: plain.slice(0, 2).map((id) => ({ id, value: -100 })) },
    { ...greedy, temperature: 1, minP: 0.05, frequencyPenalty: 1, topK: 40, topP: 0.9 },
  ]) {
    const request = { prompt: prompt(3, 9), maxTokens: 30, sampling };
    const want = await text(engine, request);
    assert.notDeepEqual(want, plain);
    const mates = [4, 5].map((seed) => text(engine, { prompt: prompt(seed, 20), maxTokens: 20 }));
    assert.deepEqual(await text(engine, request), want);
    for (const cut of [1, 14, 29]) {
      const rest = await text(engine, { ...request, replay: want.slice(0, cut) });
      assert.deepEqual([...want.slice(0, cut), ...rest], want);
    }
    await Promise.all(mates);
  }
});

test("the likeliest tokens come with each: greedy text is the first of them", async () => {
  const events = await collect(engine, { prompt: prompt(1, 5), sampling: { ...greedy, logprobs: true, topLogprobs: 4 } });
  for (const event of events) {
    if (event.type !== "token") continue;
    assert.equal(event.top?.ids.length, 4);
    assert.equal(event.top.ids[0], event.id);
    assert.ok(Math.abs(event.top.logprobs[0]! - event.logprob) < 1e-9);
  }
});

test("a request that is taken back before its language is known ends as cancelled", async () => {
  const controller = new AbortController();
  const sampling = { ...greedy, constraint: jsonObject };
  const events = collect(engine, { prompt: [1], sampling, eos: [0], signal: controller.signal });
  await new Promise((done) => setImmediate(done));
  controller.abort();
  assert.equal((await events).at(-1)?.type, "finish");
  assert.equal((await engine.stats()).slotsUsed, 0);
});

test("a text that is held to JSON is a JSON object, greedy or drawn, and the same after a replay", async () => {
  const [eos] = tokenizer.eosIds;
  const braces = [...'}]"'].flatMap((mark) => tokenizer.encode(mark)).map((id) => ({ id, value: 30 }));
  for (const temperature of [0, 0.8]) {
    const constraint = jsonObject;
    const sampling = { ...greedy, temperature, constraint, bias: braces, frequencyPenalty: 2 };
    const request = { prompt: prompt(2, 6), maxTokens: 80, sampling, eos: [eos as number] };
    const events = await collect(engine, request);
    const want = tokensOf(events);
    assert.equal(want.at(-1), eos, "the text ended");
    const value: unknown = JSON.parse(tokenizer.decode(want));
    assert.ok(typeof value === "object" && value !== null && !Array.isArray(value));
    const cut = want.length >> 1;
    assert.deepEqual([...want.slice(0, cut), ...(await text(engine, { ...request, replay: want.slice(0, cut) }))], want);
  }
});

test("a text that is held to calls of tools is such calls, greedy or drawn, and the same after a replay from any token", async () => {
  const [eos] = tokenizer.eosIds;
  const city = { type: "object", properties: { city: { enum: ["Oslo", "Rome"] } }, required: ["city"], additionalProperties: false };
  const calls = ["get", "get_all"].map((name) => ({ before: `<call>${name} `, schema: JSON.stringify(city), after: "</call>" }));
  const spec = JSON.stringify({ begin: "", end: "", between: "\n", trigger: "", single: true, calls });
  const closing = [...'"}'].flatMap((mark) => tokenizer.encode(mark)).map((id) => ({ id, value: 10 }));
  for (const temperature of [0, 0.8]) {
    const sampling = { ...greedy, temperature, bias: closing, constraint: { name: "tool_calls", spec } as const };
    const request = { prompt: prompt(2, 6), maxTokens: 85, sampling, eos: [eos as number] };
    const want = tokensOf(await collect(engine, request));
    const [, json = ""] = /^<call>get(?:_all)? (.*)<\/call>$/s.exec(tokenizer.decode(want)) ?? [];
    assert.ok(["Oslo", "Rome"].includes(JSON.parse(json).city), tokenizer.decode(want));
    for (const cut of [1, 8, want.length >> 1, want.length - 2])
      assert.deepEqual([...want.slice(0, cut), ...(await text(engine, { ...request, replay: want.slice(0, cut) }))], want);
  }
});

test("what the engine cannot do for a request is refused with the field", async () => {
  const ask = (sampling: object, rest: Partial<Parameters<typeof collect>[1]> = {}) =>
    collect(engine, { prompt: [1], sampling: { ...greedy, ...sampling }, ...rest });
  await assert.rejects(ask({ minP: 2 }), { code: "InvalidRequest", message: /minP/ });
  await assert.rejects(ask({ bias: [{ id: 320, value: 1 }] }), { code: "InvalidRequest", message: /vocabulary of 320/ });
  await assert.rejects(ask({ constraint: { name: "grammar", spec: "" } }, { eos: [0] }), {
    code: "InvalidRequest",
    message: /grammar is not one of/,
  });
  await assert.rejects(ask({ constraint: jsonObject }), { code: "InvalidRequest", message: /ignore_eos/ });
  assert.deepEqual(engine.load(), { queuedTokens: 0, activeRequests: 0 });
});

test("eight requests with a pattern of many repetitions go on, and cost a neighbour little more than eight without", async () => {
  const busy = await start({ kvPoolBytes: 2 * tinyKvPoolBytes });
  const neighbourMs = async (constraint?: Constraint): Promise<number> => {
    const sampling = { ...greedy, temperature: 1 };
    const begun = performance.now();
    const mates = Array.from({ length: 8 }, (_, i) =>
      text(busy, {
        prompt: prompt(i, 5),
        maxTokens: 80,
        eos: [0],
        sampling: { ...sampling, seed: BigInt(i), ...(constraint ? { constraint } : {}) },
      }),
    );
    await text(busy, { prompt: prompt(9, 5), maxTokens: 60 });
    const took = performance.now() - begun;
    for (const tokens of await Promise.all(mates)) {
      if (!constraint) continue;
      assert.match(tokenizer.decode(tokens), /^\s*"[ -~]*$/);
      assert.equal(tokens.length, 80);
    }
    return took;
  };
  const ratios: number[] = [];
  for (let round = 0; round < 5; round++) {
    const pattern = `^[ -~]*[a-${"klmno"[round]}][ -~]{450}$`; // met for the first time
    const spec = JSON.stringify({ type: "string", pattern });
    const alone = await neighbourMs();
    ratios.push((await neighbourMs({ name: "json_schema", spec })) / alone);
  }
  assert.ok(ratios.sort((a, b) => a - b)[2]! <= 3, `${ratios.map((ratio) => ratio.toFixed(1))} times as long`);
});
