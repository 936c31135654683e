// The gateway when workers break, vanish, drain or fall silent: no token is lost, and a request that breaks workers ends.

import assert from "node:assert/strict";
import { once } from "node:events";
import { type AddressInfo, createServer as createTcpServer } from "node:net";
import { test } from "node:test";
import { InMemorySpanExporter } from "@opentelemetry/sdk-trace";
import { AppError } from "../../crds/common.ts";
import { chat, chatPrompt, expected, limits, metric, post, stream, useGateways } from "../../test/kit/gateway/gateway-host.ts";
import type { Script } from "../../test/kit/gateway/scripted-worker.ts";
import { Link } from "../../test/kit/network/link.ts";
import { until } from "../../test/kit/wait.ts";
import { createTracing } from "../observe/trace.ts";

const { startAll, onEnd } = useGateways();

const cut = new AppError("the process is gone", { code: "Unavailable" });
/** Ways in which the first worker breaks after 6 tokens, and what the metric calls them. */
const breakages = new Map<string, { reason: string; script: Script }>([
  [
    "errs",
    { reason: "error", script: { before: (_p, sent) => (sent === 6 ? new AppError("engine broke", { code: "Internal" }) : undefined) } },
  ],
  ["is unavailable", { reason: "lost", script: { before: (_p, sent) => (sent === 6 ? cut : undefined) } }],
  ["drains", { reason: "draining", script: { before: (_p, sent) => (sent === 6 ? "draining" : undefined) } }],
  ["falls silent", { reason: "silent", script: { before: (_p, sent) => (sent === 6 ? "silent" : undefined) } }],
  ["ends the stream early", { reason: "lost", script: { before: (_p, sent) => (sent === 6 ? "end" : undefined) } }],
]);

for (const [how, { reason, script }] of breakages) {
  for (const temperature of [0, 0.8]) {
    test(`a worker that ${how} costs no token, temperature ${temperature}`, async () => {
      const other = Promise.withResolvers<void>();
      const before: Script["before"] = async (position, sent, call) => {
        if (sent === 6) await other.promise; // breaks only once there is another worker
        return script.before?.(position, sent, call);
      };
      const nextTokenMs = reason === "silent" ? 1_000 : limits.nextTokenMs;
      const { gateway, url, workers } = await startAll([{ before }, {}], {}, { drawSeed: () => 42n, limits: { ...limits, nextTokenMs } });
      gateway.apply({ version: 2, members: [workers[0]!.member(), workers[1]!.member("joining")] });
      const answer = stream(`${url}/v1/chat/completions`, chat({ temperature, stream_options: { include_usage: true } }));
      await until("the first worker has it", () => workers[0]!.requests.length === 1);
      gateway.apply({ version: 3, members: workers.map((worker) => worker.member()) });
      other.resolve();
      const result = await answer;
      assert.equal(result.text, expected(chatPrompt, 20, 42n, temperature));
      assert.equal(result.events.at(-1).usage.completion_tokens, 20);
      assert.deepEqual(result.comments, [": failovers=1"]);
      const replayed = workers[1]!.requests[0]!;
      assert.equal(String.fromCharCode(...replayed.replay), result.text.slice(0, 6));
      assert.equal(replayed.maxTokens, 20);
      if (how === "drains") assert.equal(replayed.kvRank, 0, "which has its keys and values");
      assert.equal(await metric(gateway, `enodia_gateway_failovers_total{reason="${reason}"`), 1);
    });
  }
}

test("a killed process costs no token, and its rank is left alone until it is back", async () => {
  const { gateway, url, workers } = await startAll([{ delayMs: 10 }, { delayMs: 1 }]);
  gateway.apply({ version: 2, members: [workers[0]!.member(), workers[1]!.member("joining")] });
  const answer = stream(`${url}/v1/chat/completions`, chat({ max_tokens: 100 }));
  await until("it runs", () => workers[0]!.active === 1);
  gateway.apply({ version: 3, members: workers.map((worker) => worker.member()) });
  await new Promise((resolve) => setTimeout(resolve, 60));
  await workers[0]!.kill();
  assert.equal((await answer).text, expected(chatPrompt, 100));
});

test("a membership that declares a rank lost moves its requests at once", async () => {
  const { gateway, url, workers } = await startAll(
    [{ before: (_p, sent) => (sent === 4 ? "silent" : undefined) }, {}],
    {},
    { limits: { ...limits, nextTokenMs: 60_000 } },
  );
  gateway.apply({ version: 2, members: [workers[0]!.member(), workers[1]!.member("joining")] });
  const answer = stream(`${url}/v1/chat/completions`, chat());
  await until("it runs", () => workers[0]!.active === 1);
  await new Promise((resolve) => setTimeout(resolve, 50));
  gateway.apply({ version: 3, members: [workers[0]!.member("lost"), workers[1]!.member()] });
  assert.equal((await answer).text, expected(chatPrompt, 20));
});

test("a rank that a membership leaves out ends what it has, and gets nothing new", async () => {
  const gate = Promise.withResolvers<undefined>();
  const { gateway, url, workers } = await startAll([{ before: (_p, sent) => (sent === 4 ? gate.promise : undefined) }, {}]);
  gateway.apply({ version: 2, members: [workers[0]!.member(), workers[1]!.member("joining")] });
  const answer = stream(`${url}/v1/chat/completions`, chat());
  await until("it runs", () => workers[0]!.active === 1);
  gateway.apply({ version: 3, members: [workers[1]!.member()] });
  assert.equal((await stream(`${url}/v1/chat/completions`, chat())).text, expected(chatPrompt, 20));
  assert.equal(workers[1]!.requests.length, 1);
  gate.resolve(undefined);
  const result = await answer;
  assert.equal(result.text, expected(chatPrompt, 20));
  assert.deepEqual(result.comments, [], "no failover");
});

test("an address that swallows everything costs two seconds, not the transport's twenty, and no token", async () => {
  const { gateway, url, workers } = await startAll([{}, {}], {}, { limits: { ...limits, noWorkerMs: 15_000, firstTokenMs: 60_000 } });
  const hole = createTcpServer((socket) => onEnd(() => socket.destroy())).listen(0, "127.0.0.1");
  onEnd(() => hole.close());
  await once(hole, "listening");
  const swallowed = { ...workers[0]!.member(), podUid: "uid-new", address: `127.0.0.1:${(hole.address() as AddressInfo).port}` };
  gateway.apply({ version: 2, members: [swallowed, workers[1]!.member("joining")] });
  const answer = stream(`${url}/v1/chat/completions`, chat());
  await new Promise((resolve) => setTimeout(resolve, 50));
  gateway.apply({ version: 3, members: [swallowed, workers[1]!.member()] });
  const result = await answer;
  assert.equal(result.text, expected(chatPrompt, 20));
  assert.deepEqual(result.comments, [": failovers=1"]);
});

test("a worker of which nothing is heard is left within two seconds, although its next token may take long", async () => {
  const { gateway, url, workers } = await startAll([{ delayMs: 20 }, {}]);
  const link = await Link.open(() => Number(workers[0]!.member().address.split(":")[1]));
  onEnd(() => link.close());
  const behind = { ...workers[0]!.member(), address: link.address };
  gateway.apply({ version: 2, members: [behind, workers[1]!.member("joining")] });
  const answer = stream(`${url}/v1/chat/completions`, chat({ max_tokens: 100 }));
  await until("it runs", () => workers[0]!.active === 1);
  gateway.apply({ version: 3, members: [behind, workers[1]!.member()] });
  await new Promise((resolve) => setTimeout(resolve, 400)); // it has shown life
  link.silence();
  const silentAt = performance.now();
  const result = await answer;
  assert.equal(result.text, expected(chatPrompt, 100));
  assert.deepEqual(result.comments, [": failovers=1"]);
  assert.ok(performance.now() - silentAt < 3_000, `${performance.now() - silentAt} ms, on a machine that may be busy`);
  assert.equal(await metric(gateway, 'enodia_gateway_failovers_total{reason="silent"'), 1);
  assert.equal(await metric(gateway, 'enodia_gateway_suspicions_total{reason="silent"'), 1);
  assert.equal(await metric(gateway, 'enodia_gateway_stall_seconds_count{part="replay"'), 1);
  gateway.apply({ version: 4, members: [behind, workers[1]!.member("draining")] });
  link.heal();
  assert.equal((await stream(`${url}/v1/chat/completions`, chat())).text, expected(chatPrompt, 20), "it is used again when it speaks");
});

test("a worker that computes for long and lives keeps its requests", async () => {
  const slow: Script = { slot: () => new Promise((resolve) => setTimeout(() => resolve(undefined), 2_300)) };
  const { gateway, url } = await startAll([slow]);
  const answers = await Promise.all([1, 2, 3, 4].map((n) => stream(`${url}/v1/chat/completions`, chat({ max_tokens: 10 + n }))));
  for (const [i, { text, comments }] of answers.entries()) {
    assert.equal(text, expected(chatPrompt, 11 + i));
    assert.deepEqual(comments, [], "no failover");
  }
  assert.equal(await metric(gateway, 'enodia_gateway_suspicions_total{reason="silent"'), 0);
});

test("new requests wait for a worker that was ready a moment ago", async () => {
  const { gateway, url, workers } = await startAll([{}], {}, { limits: { ...limits, noWorkerMs: 4_000 } });
  gateway.apply({ version: 2, members: [workers[0]!.member("lost")] });
  const answer = stream(`${url}/v1/chat/completions`, chat());
  await until("it waits", async () => (await metric(gateway, "enodia_gateway_queue_requests{")) === 1);
  gateway.apply({ version: 3, members: [workers[0]!.member()] });
  assert.equal((await answer).text, expected(chatPrompt, 20));
  gateway.apply({ version: 4, members: [workers[0]!.member("lost")] });
  const refused = await post(`${url}/v1/chat/completions`, chat());
  assert.equal(refused.status, 503, "but not for ever");
  assert.equal(((await refused.json()) as any).error.code, "no_worker");
});

test("a request that breaks every worker ends with an error, not with all workers", async () => {
  const broken: Script = { before: () => new AppError("NaN in layer 3", { code: "Internal" }) };
  const { gateway, url, workers } = await startAll([broken, broken]);
  const result = await stream(`${url}/v1/chat/completions`, chat());
  assert.equal(result.done, false);
  assert.equal(result.events.at(-1).error.code, "internal_error");
  assert.ok(!JSON.stringify(result.events).includes("NaN in layer 3"), "causes stay inside");
  assert.equal(workers[0]!.requests.length + workers[1]!.requests.length, 3);
  assert.equal(await metric(gateway, "enodia_gateway_failed_total{"), 1);
  assert.equal(await metric(gateway, "enodia_gateway_requests_active{"), 0);
});

test("a client is told of logits that are no numbers", async () => {
  const broken: Script = { before: () => new AppError("logit 5 of output token 0 is NaN", { code: "UnusableLogits" }) };
  const { url, workers } = await startAll([broken, broken]);
  const response = await post(`${url}/v1/chat/completions`, chat({ stream: false }));
  assert.equal(response.status, 500);
  const { error } = (await response.json()) as any;
  assert.equal(error.code, "unusable_logits");
  assert.match(error.message, /logit 5 of output token 0 is NaN/);
  assert.equal(workers[0]!.requests.length + workers[1]!.requests.length, 3);
});

test("one trace holds the request and each attempt, and the worker gets its parent", async () => {
  const exporter = new InMemorySpanExporter();
  const tracing = await createTracing({ service: "gateway", exporter });
  const { url, workers } = await startAll([{ before: (_p, sent) => (sent === 3 ? cut : undefined) }, {}], {}, { tracing });
  const traceId = "0af7651916cd43dd8448eb211c80319c";
  const client = `00-${traceId}-b7ad6b7169203331-01`;
  const prompt = chat();
  const response = await post(`${url}/v1/chat/completions`, prompt, { traceparent: client });
  assert.equal(response.status, 200);
  await response.json();
  const requests = workers.flatMap((worker) => worker.requests);
  const spans = exporter.getFinishedSpans();
  const root = spans.find((span) => span.name === "gateway.chat");
  assert.equal(root?.parentSpanContext?.spanId, "b7ad6b7169203331");
  const attempts = spans.filter((span) => span.name === "worker.generate");
  assert.equal(attempts.length, requests.length);
  for (const span of attempts) assert.equal(span.parentSpanContext?.spanId, root?.spanContext().spanId);
  for (const request of requests)
    assert.ok(attempts.some((span) => request.traceparent === `00-${traceId}-${span.spanContext().spanId}-01`));
});
