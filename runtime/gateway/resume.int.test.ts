// An answer outlives its gateway: two gateways before ranks of the real engine, whose connections to the first one break mid-stream.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { letters } from "../../test/kit/gateway/letters.ts";
import { gatewayOfRanks } from "../../test/kit/gateway/local-gateway.ts";
import { Link } from "../../test/kit/network/link.ts";
import { doubleEngine } from "../../test/kit/ranks/double-engine.ts";
import { Ranks, tinyStore } from "../../test/kit/ranks/ranks.ts";
import { until } from "../../test/kit/wait.ts";
import type { Gateway } from "./gateway.ts";

const maxTokens = 200;
const keys = mkdtempSync(join(tmpdir(), "enodia-keys-"));
const apiKeyFile = join(keys, "key");

let store: Awaited<ReturnType<typeof tinyStore>>;
before(async () => {
  store = await tinyStore();
  writeFileSync(apiKeyFile, "mine\nother\n");
});
after(() => {
  store.remove();
  rmSync(keys, { recursive: true });
});

/** Two gateways before two ranks; the first one's connections to them can be cut. */
async function world(layerMs?: number) {
  await using opened = new AsyncDisposableStack();
  const engine = layerMs === undefined ? {} : { createEngine: doubleEngine(store.index, { layerMs }) };
  const ranks = new Ranks(store, () => ({ overrides: engine }));
  opened.defer(() => ranks.close());
  for (const rank of [0, 1]) await ranks.launch(rank);
  await ranks.firstPlan(2);
  const start = async () => {
    const gateway = await gatewayOfRanks(ranks, { apiKeyFile }, { textModel: letters });
    opened.defer(() => gateway.close(0));
    return gateway;
  };
  const [first, second] = [await start(), await start()];
  const links: Link[] = [];
  for (const { worker } of ranks.byRank.values()) links.push(await Link.open(() => worker.grpcPort));
  opened.defer(() => links.forEach((link) => void link.close()));
  const members = ranks.members().map((member, at) => ({ ...member, address: links[at]!.address }));
  first.apply({ version: 100, members });
  const kept = opened.move();
  return { ranks, first, second, cut: () => links.forEach((link) => void link.kill()), [Symbol.asyncDispose]: () => kept.disposeAsync() };
}

const sum = async (ranks: Ranks, series: string): Promise<number> => {
  const texts = await Promise.all([...ranks.byRank.values()].map(({ worker }) => worker.metrics.text()));
  const lines = texts.flatMap((text) => text.split("\n")).filter((line) => line.startsWith(series));
  return lines.reduce((total, line) => total + Number(line.split(" ").at(-1)), 0);
};
const computed = (ranks: Ranks) => sum(ranks, "enodia_worker_requests_total");
const resumed = (ranks: Ranks) => sum(ranks, "enodia_worker_resumed_total");

interface Asked {
  readonly path?: string;
  readonly body?: object;
  readonly key?: string;
  readonly apiKey?: string;
  readonly signal?: AbortSignal;
}

function ask(gateway: Gateway, { path = "/v1/completions", body, key, apiKey = "mine", signal }: Asked): Promise<Response> {
  const headers = { authorization: `Bearer ${apiKey}`, ...(key === undefined ? {} : { "idempotency-key": key }) };
  const sent = body ? { method: "POST", body: JSON.stringify({ model: "tiny", ...body }) } : {};
  return fetch(`http://127.0.0.1:${gateway.httpPort}${path}`, { headers, ...sent, ...(signal ? { signal } : {}) });
}

const eventsOf = (text: string): any[] => text.split("\n").flatMap((l) => (l.startsWith("data: {") ? [JSON.parse(l.slice(6))] : []));

/** The events of a stream until one satisfies `enough`; then its client and its gateway's connections are gone. */
async function broken(response: Response, enough: (events: any[]) => boolean, cut: () => void): Promise<any[]> {
  let text = "";
  const came = () => eventsOf(text.slice(0, text.lastIndexOf("\n\n") + 1)); // a chunk may end within an event
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  while (!enough(came())) {
    const { value, done } = await reader.read();
    assert.ok(!done, "the stream ended before its gateway was cut off");
    text += value;
  }
  cut();
  await reader.cancel();
  return came();
}

const letter = (event: any): string => event.choices?.[0]?.text ?? "";
const completion = (prompt: string, more: object = {}) => ({ prompt, max_tokens: maxTokens, temperature: 0.9, seed: 7, ...more });

for (const [engine, layerMs] of [
  ["the real engine", undefined],
  ["a slow double", 2],
] as const) // the last one is cut off while it computes
  test(`a completion whose gateway is cut off goes on by its key at another one, of ${engine}`, async () => {
    await using here = await world(layerMs);
    const { ranks, first, second, cut } = here;
    const body = completion("hello", { stream: true, logprobs: 2 });
    const calm = eventsOf(await (await ask(second, { body, key: "calm" })).text());
    assert.equal(await computed(ranks), 1);
    const seen = await broken(await ask(first, { body, key: "k" }), (events) => events.length >= 8, cut);
    const wrong = await ask(second, { body: completion("another"), key: "k" });
    assert.deepEqual([wrong.status, ((await wrong.json()) as any).error.code], [422, "idempotency_key_reused"]);
    const [again, twin] = await Promise.all([0, 1].map(async () => eventsOf(await (await ask(second, { body, key: "k" })).text())));
    assert.deepEqual(again!.slice(0, seen.length), seen, "the same events, ids and times");
    assert.deepEqual(twin, again);
    assert.equal(again!.map(letter).join("").length, maxTokens);
    assert.equal(await resumed(ranks), 2);
    assert.equal(await computed(ranks), 2);
    await new Promise((resolve) => setTimeout(resolve, 1_000)); // ranks count a few times a second
    assert.ok((await sum(ranks, "enodia_worker_tokens_total")) <= 2 * ("hello".length + maxTokens), "nothing was computed anew");
    assert.equal(again!.map(letter).join(""), calm.map(letter).join(""), "the text of one that nothing disturbed");
    await (await ask(second, { body, key: "k", apiKey: "other" })).text();
    assert.deepEqual([await computed(ranks), await resumed(ranks)], [3, 2], "another caller's key is another one");
  });

test("a whole answer is repeated as it was, and with its rank gone its text is computed again, of the seed that its key draws", async () => {
  await using here = await world();
  const { ranks, first, second } = here;
  const asked = { body: completion("whole", { n: 2, max_tokens: 40, seed: null }), key: "w" };
  const once: any = await (await ask(first, asked)).json();
  assert.notEqual(once.choices[0].text, once.choices[1].text);
  assert.deepEqual(await (await ask(second, asked)).json(), once);
  assert.deepEqual([await computed(ranks), await resumed(ranks)], [2, 2]);
  const has = await Promise.all(
    [0, 1].map(async (rank) => /kept_answers\{.*\} [12]\n/.test(await ranks.byRank.get(rank)!.worker.metrics.text())),
  );
  await ranks.kill(has.indexOf(true));
  const anew: any = await (await ask(second, asked)).json();
  assert.deepEqual([anew.id, anew.choices], [once.id, once.choices]);
});

test("a streamed response goes on after an event at another gateway, and another caller finds none", async () => {
  await using here = await world(2);
  const { ranks, first, second, cut } = here;
  const path = "/v1/responses";
  const body = { input: "hello", max_output_tokens: maxTokens, stream: true };
  const seen = await broken(await ask(first, { path, body }), (events) => events.length >= 12, cut);
  const { id } = seen[0].response;
  const last = seen.at(-1).sequence_number;
  const get = (query: string, apiKey = "mine") => ask(second, { path: `${path}/${id}${query}`, apiKey });
  assert.equal((await get("?stream=true", "other")).status, 404);
  assert.equal((await ask(second, { path: `${path}/resp_${"0".repeat(32)}` })).status, 404);
  assert.equal((await get("?stream=true&starting_after=x")).status, 400);
  const rest = eventsOf(await (await get(`?stream=true&starting_after=${last}`)).text());
  const all = [...seen, ...rest];
  assert.deepEqual(
    all.map((event) => event.sequence_number),
    all.map((_, at) => at),
  );
  const text = all.flatMap((event) => (event.type === "response.output_text.delta" ? [event.delta] : [])).join("");
  const { response } = rest.at(-1);
  assert.deepEqual([response.id, response.output[0].content[0].text, text.length], [id, text, maxTokens]);
  assert.deepEqual(await (await get("")).json(), response, "and whole");
  assert.deepEqual([await computed(ranks), await resumed(ranks)], [1, 2]);
});

test("a client that leaves ends its request, unless it sent a key and may come back", async () => {
  await using here = await world(5);
  const { ranks, second } = here;
  const active = () => [...ranks.byRank.values()].reduce((n, { worker }) => n + worker.engine.load().activeRequests, 0);
  const leave = async (asked: Asked, after = 1) =>
    broken(
      await ask(second, asked),
      ({ length }) => length >= after,
      () => {},
    );
  const stream = { stream: true, max_tokens: maxTokens };
  await leave({ body: { prompt: "x", ...stream } });
  await until("the plain one is cancelled", () => active() === 0);
  const path = "/v1/responses";
  const [begun] = await leave({ path, body: { input: "x", stream: true, max_output_tokens: maxTokens } }, 8);
  await until("the response is cancelled", () => active() === 0);
  const whole: any = await (await ask(second, { path: `${path}/${begun.response.id}` })).json();
  assert.equal(whole.output[0].content[0].text.length, maxTokens);
  const metrics = await (await fetch(`http://127.0.0.1:${second.metricsPort}/metrics`)).text();
  assert.doesNotMatch(metrics, /^enodia_gateway_failovers_total\{.* [1-9]/m, "no rank is at fault for what a client stopped");
  await leave({ body: { prompt: "y", ...stream }, key: "stays" });
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.equal(active(), 1);
  const text = await (await ask(second, { body: { prompt: "y", ...stream }, key: "stays" })).text();
  assert.equal(eventsOf(text).map(letter).join("").length, maxTokens);
  assert.equal(await resumed(ranks), 2);
});
