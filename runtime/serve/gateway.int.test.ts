// The gateway over real HTTP and real gRPC with mutual TLS, against scripted workers: answers, failover, clients that go.
import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { request as httpRequest } from "node:http";
import { type AddressInfo, connect as connectTcp, createServer as createTcpServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, before, test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { InMemorySpanExporter } from "@opentelemetry/sdk-trace";
import { AppError, operatorRank } from "../../crds/common.ts";
import { byteText } from "../../test/support/byte-text.ts";
import { createTestCa, type TestCa } from "../../test/support/certs.ts";
import { eosId, name, ns, type Script, type ScriptedWorker, startWorker, tokenAt } from "../../test/support/scripted-worker.ts";
import { silentLog } from "../observe/log.ts";
import { createTracing } from "../observe/trace.ts";
import { Control, WatchPushSchema, type WatchStatus } from "../wire/gen/enodia/runtime/v1/runtime_pb.js";
import { connect, fromStatus } from "../wire/grpc.ts";
import { toMembership, toSender } from "../wire/mapping.ts";
import { serverNames } from "../wire/tls.ts";
import { failoverLimits } from "./failover.ts";
import { type Gateway, type GatewayConfig, type GatewayOverrides, startGateway } from "./gateway.ts";

let ca: TestCa;
const cleanups: (() => Promise<unknown> | unknown)[] = [];
/** Long enough for a busy machine; tests of silence and of waiting set their own. */
const limits = { ...failoverLimits, noWorkerMs: 15_000, firstTokenMs: 15_000, perPromptTokenMs: 0, nextTokenMs: 15_000 };

before(async () => {
  ca = await createTestCa();
});
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});
after(() => assert.equal(cleanups.length, 0));

async function startAll(scripts: Script[], config: Partial<GatewayConfig> = {}, overrides: GatewayOverrides = {}) {
  const workers: ScriptedWorker[] = [];
  for (const [rank, script] of scripts.entries()) workers.push(await startWorker(ca, rank, script));
  cleanups.push(() => Promise.all(workers.map((worker) => worker.close())));
  const gateway = await startGateway(
    {
      ...{ namespace: ns, deployment: name, deploymentUid: "uid", podName: "gw-1", podUid: "gw-uid", servedName: "tiny", modelDir: "" },
      ...{ maxContext: 512, tlsDir: "", httpPort: 0, grpcPort: 0, metricsPort: 0, host: "127.0.0.1", logLevel: "silent", version: "0" },
      ...config,
    },
    { tls: await ca.issue("gateway", ns, name), textModel: byteText, limits, log: silentLog, ...overrides },
  );
  cleanups.push(() => gateway.close(0));
  gateway.apply({ version: 1, members: workers.map((worker) => worker.member()) });
  return { gateway, workers, url: `http://127.0.0.1:${gateway.httpPort}` };
}

function expected(prompt: string, tokens: number, seed = 0n, temperature = 0, from = 0): string {
  const ids = [...new TextEncoder().encode(prompt)];
  return String.fromCharCode(...Array.from({ length: tokens - from }, (_, i) => tokenAt(ids, seed, temperature, from + i)));
}

const chat = (extra: object = {}) => ({
  model: "tiny",
  temperature: 0,
  max_tokens: 20,
  messages: [{ role: "user", content: "hi" }],
  ...extra,
});
const chatPrompt = "<user>hi";

async function post(url: string, body: unknown, headers: Record<string, string> = {}) {
  const text = typeof body === "string" ? body : JSON.stringify(body);
  const response = await fetch(url, { method: "POST", headers: { "content-type": "application/json", ...headers }, body: text });
  return response;
}

interface Streamed {
  text: string;
  events: any[];
  comments: string[];
  done: boolean;
  response: Response;
}

async function stream(url: string, body: object): Promise<Streamed> {
  const response = await post(url, { ...body, stream: true });
  assert.equal(response.status, 200, await (response.status === 200 ? "" : response.text()));
  assert.match(response.headers.get("content-type") ?? "", /^text\/event-stream/);
  const blocks = (await response.text()).split("\n\n").filter((block) => block !== "");
  const events = blocks.filter((b) => b.startsWith("data: ") && b !== "data: [DONE]").map((b) => JSON.parse(b.slice(6)));
  const text = events.map((e) => e.choices?.[0]?.delta?.content ?? e.choices?.[0]?.text ?? "").join("");
  return { text, events, comments: blocks.filter((b) => b.startsWith(":")), done: blocks.at(-1) === "data: [DONE]", response };
}

async function metric(gateway: Gateway, series: string): Promise<number> {
  const text = await (await fetch(`http://127.0.0.1:${gateway.metricsPort}/metrics`)).text();
  const [want = "", labels = ""] = series.split("{");
  const line = text.split("\n").find(
    (l) =>
      l.startsWith(`${want}{`) &&
      labels
        .replace("}", "")
        .split(",")
        .every((label) => l.includes(label)),
  );
  return Number(line?.split(" ").at(-1) ?? Number.NaN);
}

async function until(what: string, condition: () => boolean | Promise<boolean>, timeoutMs = 30_000): Promise<void> {
  const end = Date.now() + timeoutMs;
  while (!(await condition())) {
    assert.ok(Date.now() < end, `still not: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

test("a chat answer has text, finish reason and usage", async () => {
  const { url } = await startAll([{}]);
  const response = await post(`${url}/v1/chat/completions`, chat(), { "x-request-id": "my-id" });
  const body: any = await response.json();
  assert.equal(response.status, 200);
  assert.equal(response.headers.get("x-request-id"), "my-id");
  assert.equal(response.headers.get("x-enodia-failovers"), "0");
  assert.equal(body.object, "chat.completion");
  assert.equal(body.choices[0].message.content, expected(chatPrompt, 20));
  assert.equal(body.choices[0].finish_reason, "length");
  assert.deepEqual(body.usage, { prompt_tokens: 8, completion_tokens: 20, total_tokens: 28 });
});

test("a text ends at the end-of-text token, or goes on with ignore_eos", async () => {
  const { url } = await startAll([{ length: 5 }]);
  const ended: any = await (await post(`${url}/v1/completions`, { model: "tiny", prompt: "ab", temperature: 0, max_tokens: 9 })).json();
  assert.equal(ended.choices[0].text, expected("ab", 5));
  assert.equal(ended.choices[0].finish_reason, "stop");
  assert.equal(ended.usage.completion_tokens, 6);
  const on: any = await (
    await post(`${url}/v1/completions`, { model: "tiny", prompt: "ab", temperature: 0, max_tokens: 9, ignore_eos: true })
  ).json();
  assert.equal(on.choices[0].finish_reason, "length");
});

test("a stream carries role, deltas, one finish reason, usage on request, and [DONE]", async () => {
  const { url } = await startAll([{}]);
  const result = await stream(`${url}/v1/chat/completions`, chat({ stream_options: { include_usage: true } }));
  assert.equal(result.text, expected(chatPrompt, 20));
  assert.deepEqual(result.events[0].choices[0].delta, { role: "assistant", content: "" });
  assert.deepEqual(
    result.events.flatMap((e) => e.choices.map((c: any) => c.finish_reason)).filter((reason) => reason !== null),
    ["length"],
  );
  assert.deepEqual(result.events.at(-1).usage, { prompt_tokens: 8, completion_tokens: 20, total_tokens: 28 });
  assert.deepEqual(result.events.at(-1).choices, []);
  assert.equal(new Set(result.events.map((e) => e.id)).size, 1);
  assert.ok(result.done);
  const without = await stream(`${url}/v1/chat/completions`, chat());
  assert.ok(without.events.every((e) => !("usage" in e)));
});

test("logprobs belong to the tokens of their chunk, in both shapes", async () => {
  const { url } = await startAll([{}]);
  const chatBody: any = await (await post(`${url}/v1/chat/completions`, chat({ logprobs: true }))).json();
  const content = chatBody.choices[0].logprobs.content;
  assert.equal(content.map((c: any) => c.token).join(""), chatBody.choices[0].message.content);
  assert.deepEqual(content[0], { token: content[0].token, logprob: -0.5, bytes: [content[0].token.charCodeAt(0)], top_logprobs: [] });
  const plain: any = await (
    await post(`${url}/v1/completions`, { model: "tiny", prompt: "ab", max_tokens: 4, temperature: 0, logprobs: 0 })
  ).json();
  assert.deepEqual(plain.choices[0].logprobs.text_offset, [0, 1, 2, 3]);
  assert.equal(plain.choices[0].logprobs.tokens.join(""), plain.choices[0].text);
});

test("a stop string that spans tokens cuts the text before it and stops the worker", async () => {
  const { url, workers } = await startAll([{ delayMs: 5 }]);
  const whole = expected(chatPrompt, 400);
  const stop = whole.slice(7, 10);
  const cut = whole.slice(0, whole.indexOf(stop));
  const result = await stream(`${url}/v1/chat/completions`, chat({ max_tokens: 400, stop: ["never-there", stop] }));
  assert.equal(result.text, cut);
  assert.equal(result.events.at(-1).choices[0].finish_reason, "stop");
  await until("the worker was told", () => workers[0]!.active === 0);
  assert.equal(workers[0]!.cancelled, 1);
});

test("sampling with a seed is reproducible, without one two answers differ", async () => {
  const { url, workers } = await startAll([{}]);
  const ask = async (extra: object) =>
    ((await (await post(`${url}/v1/chat/completions`, chat({ temperature: 1, ...extra }))).json()) as any).choices[0].message.content;
  assert.equal(await ask({ seed: 7 }), await ask({ seed: 7 }));
  assert.notEqual(await ask({}), await ask({}));
  await ask({ seed: -1, top_p: 0.5, top_k: 3 });
  assert.equal(workers[0]!.requests.at(-1)?.sampling?.seed, 0xffffffffffffffffn);
  assert.equal(workers[0]!.requests.at(-1)?.sampling?.topK, 3);
  assert.equal(workers[0]!.requests.at(-1)?.sampling?.topP, 0.5);
});

const cut = new AppError("the process is gone", { code: "Unavailable" });
/** How the first worker breaks after 6 tokens, and what the metric calls it. */
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
  const hole = createTcpServer((socket) => void cleanups.push(() => socket.destroy())).listen(0, "127.0.0.1");
  cleanups.push(() => hole.close());
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

test("full workers are asked in turn, then the client gets 429 with Retry-After", async () => {
  const full: Script = { refuse: () => new AppError("queue is full", { code: "QueueFull" }) };
  const { url, workers } = await startAll([full, full], {}, { limits: { ...limits, noWorkerMs: 300 } });
  const response = await post(`${url}/v1/chat/completions`, chat());
  assert.equal(response.status, 429);
  assert.ok(Number(response.headers.get("retry-after")) >= 1);
  assert.equal(((await response.json()) as any).error.code, "queue_full");
  assert.ok(workers[0]!.requests.length > 0 && workers[1]!.requests.length > 0);
  workers[1]!.script = {};
  assert.equal((await post(`${url}/v1/chat/completions`, chat())).status, 200);
});

test("more requests than the gateway may hold get 429 at once, and their place is free after the others", async () => {
  const { gateway, url } = await startAll([{ delayMs: 10 }], { queueRequestsMax: 2 });
  const running = [1, 2].map(() => stream(`${url}/v1/chat/completions`, chat()));
  await until("both run", async () => (await metric(gateway, "enodia_gateway_requests_active{")) === 2);
  const refused = await post(`${url}/v1/chat/completions`, chat());
  assert.equal(refused.status, 429);
  assert.equal(refused.headers.get("retry-after"), "2");
  for (const { text } of await Promise.all(running)) assert.equal(text, expected(chatPrompt, 20));
  assert.equal((await post(`${url}/v1/chat/completions`, chat())).status, 200);
});

test("without a ready worker the answer is 503 with the reason, and readiness says so", async () => {
  const { gateway, url } = await startAll([]);
  const response = await post(`${url}/v1/chat/completions`, chat());
  assert.equal(response.status, 503);
  assert.ok(response.headers.get("retry-after"));
  assert.match(((await response.json()) as any).error.message, /no worker|none of|membership/i);
  const ready = await fetch(`http://127.0.0.1:${gateway.metricsPort}/readyz`);
  assert.equal(ready.status, 503);
});

test("a client that goes away frees the worker, streaming or not", async () => {
  const { gateway, url, workers } = await startAll([{ delayMs: 20 }]);
  for (const streamed of [true, false]) {
    const before = workers[0]!.cancelled;
    const request = httpRequest(`${url}/v1/chat/completions`, { method: "POST", headers: { "content-type": "application/json" } });
    request.on("error", () => {});
    request.end(JSON.stringify(chat({ max_tokens: 400, stream: streamed })));
    await until("the worker runs", () => workers[0]!.active === 1);
    request.destroy();
    await until("the worker stopped", () => workers[0]!.active === 0);
    assert.equal(workers[0]!.cancelled, before + 1);
  }
  await until("both are counted", async () => (await metric(gateway, 'enodia_gateway_requests_total{endpoint="chat",code="499"')) === 2);
  assert.equal(await metric(gateway, "enodia_gateway_cancelled_total{"), 2);
  assert.equal(await metric(gateway, "enodia_gateway_requests_active{"), 0);
});

test("a client that reads slowly gets everything and nothing piles up in the gateway", async () => {
  const servedName = "m".repeat(20_000); // in every event: a thousand of them overflow what the kernel buffers
  const { gateway, url } = await startAll([{}], { maxContext: 2_000, servedName });
  const port = Number(new URL(url).port);
  const body = JSON.stringify({ model: servedName, prompt: "ab", temperature: 0, max_tokens: 1_500, stream: true });
  const socket = connectTcp({ port, host: "127.0.0.1" });
  cleanups.push(() => socket.destroy());
  socket.write(`POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: ${body.length}\r\n\r\n${body}`);
  await new Promise((resolve) => socket.once("data", resolve));
  socket.pause();
  const taken = () => metric(gateway, 'enodia_gateway_tokens_total{kind="output"');
  let written = -1;
  const stopped = async () => {
    const before = written;
    await new Promise((resolve) => setTimeout(resolve, 300));
    written = await taken();
    return written === before;
  };
  await until("the gateway stops taking tokens", stopped, 30_000);
  assert.ok(written < 1_500, `${written} tokens were taken from the worker while the client read nothing`);
  let end = "";
  socket.on("data", (chunk) => {
    end = (end + chunk).slice(-100);
  });
  socket.resume();
  await new Promise((resolve) => socket.once("close", resolve));
  assert.match(end, /\[DONE\]/);
  assert.equal(await taken(), 1_500);
});

test("an API key is required, compared against the file, and re-read when it changes", async () => {
  const dir = await mkdtemp(join(tmpdir(), "enodia-key-"));
  cleanups.push(() => rm(dir, { recursive: true }));
  const file = join(dir, "key");
  await writeFile(file, "first\nsecond\n");
  const { url } = await startAll([{}], { apiKeyFile: file });
  const get = async (authorization?: string) =>
    (await fetch(`${url}/v1/models`, { headers: authorization ? { authorization } : {} })).status;
  assert.equal(await get(), 401);
  assert.equal(await get("Bearer wrong"), 401);
  assert.equal(await get("Basic first"), 401);
  assert.equal(await get("Bearer first"), 200);
  assert.equal(await get("bearer second"), 200);
  assert.equal((await fetch(`${url}/healthz`)).status, 200, "probes need no key");
  await writeFile(file, "third\n");
  await until("the new key counts", async () => (await get("Bearer third")) === 200);
  assert.equal(await get("Bearer first"), 401);
  await rm(file);
  await new Promise((resolve) => setTimeout(resolve, 1_100));
  assert.equal(await get("Bearer third"), 200, "a file that is gone for a moment locks nobody out");
  assert.equal(await get("Bearer first"), 401);
});

test("a key file without a key stops the start", async () => {
  const dir = await mkdtemp(join(tmpdir(), "enodia-key-"));
  cleanups.push(() => rm(dir, { recursive: true }));
  await writeFile(join(dir, "key"), "\n");
  await assert.rejects(startAll([], { apiKeyFile: join(dir, "key") }), { code: "ApiKeyUnreadable" });
});

test("the operator's watch brings membership and gets the gateway's state", async () => {
  const { gateway, workers, url } = await startAll([{}]);
  const address = `127.0.0.1:${gateway.grpcPort}`;
  const as = async (member: string) => {
    const client = connect(Control, { address, serverName: serverNames.gateway(ns, name), tls: await ca.issue(member, ns, name) });
    cleanups.push(client.close);
    return client;
  };
  const watch = (await as("operator")).watch();
  const statuses: WatchStatus[] = [];
  watch.on("data", (status) => statuses.push(status));
  watch.on("error", () => {});
  const sender = toSender({ deploymentUid: "uid", rank: operatorRank, podUid: "op", bootId: "b" });
  watch.write(
    create(WatchPushSchema, { sender, push: { case: "membership", value: toMembership({ version: 7, members: [workers[0]!.member()] }) } }),
  );
  await until("it is known", () => statuses.some((status) => status.membershipVersion === 7n && status.ready));
  const count = statuses.length;
  await until("status comes by itself", () => statuses.length > count, 2_000);
  assert.equal((await post(`${url}/v1/chat/completions`, chat())).status, 200);
  const snapshot = await (await as("rank-0")).snapshot({});
  assert.equal(snapshot.membership?.version, 7n);
  await assert.rejects((await as("rank-0")).describe({}), (error) => fromStatus(error, "describe").code === "Forbidden");
  const forged = (await as("operator")).watch();
  forged.on("data", () => {});
  const refused = new Promise((resolve) => forged.on("error", (error) => resolve(fromStatus(error, "watch").code)));
  forged.write(
    create(WatchPushSchema, {
      sender: { ...sender, deploymentUid: "other" } as any,
      push: { case: "membership", value: toMembership({ version: 99, members: [] }) },
    }),
  );
  assert.equal(await refused, "Forbidden");
  assert.equal(gateway.pool.version, 7);
  watch.cancel();
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

test("a deadline ends a request that does not end by itself", async () => {
  const { workers, url } = await startAll([{ length: 3 }]);
  await post(`${url}/v1/chat/completions`, chat());
  assert.ok(workers[0]!.requests[0]!.deadlineUnixMs > BigInt(Date.now()));
  assert.deepEqual(workers[0]!.requests[0]!.eos, [eosId]);
});

/** Requests that end at the door; the body may be raw bytes. */
const refused = new Map<
  string,
  { path?: string; method?: string; body?: string | Uint8Array<ArrayBuffer>; want: number; code: string | null; param?: string }
>([
  ["malformed JSON", { body: '{"model": ', want: 400, code: "invalid_json" }],
  ["an empty body", { body: "", want: 400, code: "invalid_json" }],
  ["bytes that are no UTF-8", { body: new Uint8Array([0x22, 0xff, 0x22]), want: 400, code: "invalid_json" }],
  ["a deeply nested body", { body: `${"[".repeat(200_000)}${"]".repeat(200_000)}`, want: 400, code: "invalid_value" }],
  ["a body above the limit", { body: `{"x":"${"a".repeat(9 * 1024 * 1024)}"}`, want: 413, code: "request_too_large" }],
  ["a wrong method", { method: "GET", want: 405, code: "method_not_allowed" }],
  ["an unknown path", { path: "/v1/embeddings", body: "{}", want: 404, code: "unknown_url" }],
  ["another model", { body: JSON.stringify(chat({ model: "other" })), want: 404, code: "model_not_found", param: "model" }],
  [
    "a prompt beyond the context",
    {
      body: JSON.stringify(chat({ messages: [{ role: "user", content: "x".repeat(600) }] })),
      want: 400,
      code: "context_length_exceeded",
      param: "messages",
    },
  ],
  [
    "max_tokens beyond the context",
    { body: JSON.stringify(chat({ max_tokens: 505 })), want: 400, code: "context_length_exceeded", param: "messages" },
  ],
  [
    "messages the template refuses",
    {
      body: JSON.stringify(chat({ messages: [{ role: "assistant", content: "me first" }] })),
      want: 400,
      code: "invalid_value",
      param: "messages",
    },
  ],
  [
    "an empty prompt",
    { path: "/v1/completions", body: JSON.stringify({ model: "tiny", prompt: "" }), want: 400, code: "invalid_value", param: "prompt" },
  ],
  [
    "a token that the model lacks",
    {
      path: "/v1/completions",
      body: JSON.stringify({ model: "tiny", prompt: [1, 300] }),
      want: 400,
      code: "invalid_value",
      param: "prompt",
    },
  ],
]);

test("bad requests get their status, code and field, and cost nothing", async () => {
  const { gateway, url, workers } = await startAll([{}]);
  for (const [what, { path, method, body, want, code, param }] of refused) {
    const response = await fetch(`${url}${path ?? "/v1/chat/completions"}`, {
      method: method ?? "POST",
      ...(body === undefined ? {} : { body }),
    });
    assert.equal(response.status, want, what);
    const { error }: any = await response.json();
    assert.equal(error.code, code, what);
    assert.equal(error.param, param ?? null, what);
    assert.ok(error.message.length > 10 && error.message.length < 700, what);
    assert.ok(response.headers.get("x-request-id"), what);
  }
  assert.equal(workers[0]!.requests.length, 0);
  assert.equal(await metric(gateway, "enodia_gateway_requests_active{"), 0);
  assert.equal(await metric(gateway, 'enodia_gateway_rejected_total{reason="context_length"'), 2);
  assert.equal(await metric(gateway, 'enodia_gateway_rejected_total{reason="too_large"'), 1);
  assert.equal((await post(`${url}/v1/chat/completions`, chat())).status, 200, "and the gateway lives on");
});

test("exactly the whole context is taken", async () => {
  const { url } = await startAll([{}]);
  const response = await post(`${url}/v1/chat/completions`, chat({ max_tokens: 504 }));
  assert.equal(response.status, 200);
  assert.equal(((await response.json()) as any).usage.total_tokens, 512);
});

test("the model list names the served model", async () => {
  const { url } = await startAll([{}]);
  const list: any = await (await fetch(`${url}/v1/models`)).json();
  assert.deepEqual(
    list.data.map((m: any) => [m.id, m.object, m.max_model_len]),
    [["tiny", "model", 512]],
  );
  assert.equal((await fetch(`${url}/v1/models/tiny`)).status, 200);
  assert.equal((await fetch(`${url}/v1/models/other`)).status, 404);
});
