// A gateway and what its workers say of themselves: that they speak another version of the wire, that a request is wrong, how loaded they are.

import assert from "node:assert/strict";
import { test } from "node:test";
import { AppError } from "../../../crds/common.ts";
import { chat, chatPrompt, expected, limits, post, stream, useGateways } from "../../../test/kit/gateway/gateway-host.ts";
import { until } from "../../../test/kit/wait.ts";

const { startAll } = useGateways();

test("a worker of another wire version is asked nothing; with no other the answer is 503 and names it", async () => {
  const { url, workers } = await startAll([{ alive: false }, {}]);
  await until("it is known", async () => {
    const before = workers[0]!.requests.length;
    for (let i = 0; i < 4; i++) assert.equal((await post(`${url}/v1/chat/completions`, chat({ seed: i }))).status, 200);
    return workers[0]!.requests.length === before;
  });
  const only = await startAll([{ alive: false }], {}, { limits: { ...limits, noWorkerMs: 1_500 } });
  await until("it is named", async () => {
    const response = await post(`${only.url}/v1/chat/completions`, chat());
    const { error }: any = await response.json();
    if (response.status === 200) return false;
    assert.deepEqual([response.status, error.code, response.headers.get("retry-after")], [503, "no_worker", "5"]);
    return /rank 0 speaks another version of the wire than enodia\.runtime\.v1\.Inference/.test(error.message);
  });
});

for (const stands of [true, false])
  test(`a stream at a rank that is no member any more ${stands ? "and stands goes on elsewhere" : "ends there while tokens come"}`, async () => {
    const script = { delayMs: 200, before: (_at: number, sent: number) => (stands && sent === 5 ? ("silent" as const) : undefined) };
    const { gateway, workers, url } = await startAll([script, script]);
    const begunAt = performance.now();
    const streamed = stream(`${url}/v1/chat/completions`, chat());
    await until("it is under way", () => workers.some(({ active }) => active === 1));
    const [left, other] = workers.toSorted((a, b) => b.active - a.active);
    other!.script = {};
    gateway.apply({ version: 2, members: [other!.member()] });
    assert.equal((await streamed).text, expected(chatPrompt, 20));
    assert.deepEqual([left!.requests.length, other!.requests.length], [1, stands ? 1 : 0]);
    assert.ok(performance.now() - begunAt < 10_000, "long before a member that says nothing");
  });

test("a prompt that is computed for long at a rank that is no member any more ends there, and moves on when it is computed no further", async () => {
  for (const computes of [true, false]) {
    let passed = 0;
    let held = Promise.resolve();
    const script = { passed: () => (computes ? ++passed : passed), slot: () => held.then(() => undefined) };
    const { gateway, workers, url } = await startAll([script, script]);
    const computed = Promise.withResolvers<void>();
    held = computed.promise;
    const answered = stream(`${url}/v1/chat/completions`, chat());
    await until("it is under way", () => workers.some(({ active }) => active === 1));
    const [left, other] = workers.toSorted((a, b) => b.active - a.active);
    other!.script = {};
    gateway.apply({ version: 2, members: [other!.member()] });
    if (computes) await new Promise((resolve) => setTimeout(resolve, 4_000));
    else await until("it has moved on", () => other!.requests.length === 1);
    computed.resolve();
    assert.equal((await answered).text, expected(chatPrompt, 20));
    assert.deepEqual([left!.requests.length, other!.requests.length], [1, computes ? 0 : 1]);
  }
});

test("a request that a worker refuses is the client's fault", async () => {
  const refuse = () => new AppError("no token of this model begins an object", { code: "InvalidRequest" });
  const { url } = await startAll([{ refuse }]);
  assert.equal((await post(`${url}/v1/chat/completions`, chat({ response_format: { type: "json_object" } }))).status, 400);
});

test("an endpoint picker finds the load at the port of the API, the attention cache's as soon as a worker told", async () => {
  const { url } = await startAll([{ kvUse: 0.25 }, { kvUse: 0.75 }, {}]);
  const scrape = async () => {
    const response = await fetch(`${url}/metrics`);
    assert.match(response.headers.get("content-type") ?? "", /^text\/plain; version=0\.0\.4/);
    return response.text();
  };
  await until("both told", async () => (await scrape()).includes('vllm:kv_cache_usage_perc{model_name="tiny"} 0.5\n'));
  assert.match(await scrape(), /^vllm:num_requests_waiting\{model_name="tiny"\} 0$/m);
  const silent = await startAll([{}]);
  assert.doesNotMatch(await (await fetch(`${silent.url}/metrics`)).text(), /cache_usage/);
});

test("a rank's queue as a kept answer tells it is none of now", async () => {
  for (const again of [true, false]) {
    const queue = { queuedTokens: 100_000, again };
    const { url, workers } = await startAll([{ queue }, { queue }]);
    for (let i = 0; i < 2; i++) assert.equal((await post(`${url}/v1/chat/completions`, chat())).status, 200);
    assert.equal(Math.max(...workers.map(({ requests }) => requests.length)), again ? 2 : 1);
  }
});

test("a rank that says nothing of a kept answer holds nobody up once another one has it", async () => {
  const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
  const keeps = (tokens: number, ms: number) => ({ kept: () => pause(ms).then(() => ({ kept: true, tokens })) });
  const { gateway } = await startAll([keeps(3, 0), keeps(5, 5), { kept: () => pause(450).then(() => ({ kept: false })) }]);
  assert.ok((await Promise.all([0, 1].map(() => gateway.pool.kept("warm")))).every((found) => found !== undefined));
  const begunAt = performance.now();
  assert.equal((await gateway.pool.kept("k"))?.rank, 1, "the one with most tokens");
  assert.ok(performance.now() - begunAt < 300);
});

test("a request with a key asks the ranks once for what they keep, however many answers it wants", async () => {
  const asked: string[] = [];
  const kept = async (id: string) => ({ kept: asked.push(id) < 0 });
  const { url } = await startAll([{ kept }]);
  assert.equal((await post(`${url}/v1/chat/completions`, chat({ n: 3 }), { "idempotency-key": "k" })).status, 200);
  assert.equal(asked.length, 1, asked.join());
});
