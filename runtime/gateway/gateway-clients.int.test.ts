// The gateway and its clients: too many, too slow, gone, without a key, or wrong; and what it says when it cannot serve.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { request as httpRequest } from "node:http";
import { connect as connectTcp } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { AppError } from "../../crds/common.ts";
import { byteText } from "../../test/kit/gateway/byte-text.ts";
import { chat, chatPrompt, expected, limits, metric, post, stream, useGateways } from "../../test/kit/gateway/gateway-host.ts";
import type { Script } from "../../test/kit/gateway/scripted-worker.ts";
import { until } from "../../test/kit/wait.ts";

const { startAll, onEnd } = useGateways();

test("full workers are asked in turn, then the client gets 429 with Retry-After", async () => {
  const full: Script = { refuse: () => new AppError("queue is full", { code: "QueueFull" }) };
  const { url, workers } = await startAll([full, full], {}, { limits: { ...limits, noWorkerMs: 3_000 } });
  const response = await post(`${url}/v1/chat/completions`, chat());
  assert.equal(response.status, 429);
  assert.ok(Number(response.headers.get("retry-after")) >= 1);
  assert.equal(((await response.json()) as any).error.code, "queue_full");
  assert.ok(workers[0]!.requests.length > 0 && workers[1]!.requests.length > 0);
  workers[1]!.script = {};
  assert.equal((await post(`${url}/v1/chat/completions`, chat())).status, 200);
});

test("requests that wait for a full worker ask it now and then, not all again at every refusal", async () => {
  const full: Script = { refuse: () => new AppError("queue is full", { code: "Busy" }) };
  const { url, workers } = await startAll([full], {}, { limits: { ...limits, noWorkerMs: 1_500 } });
  const answers = await Promise.all(Array.from({ length: 20 }, () => post(`${url}/v1/chat/completions`, chat())));
  assert.deepEqual([...new Set(answers.map(({ status }) => status))], [429]);
  assert.ok(workers[0]!.requests.length <= 20 * 8, `${workers[0]!.requests.length} attempts of 20 requests in 1.5 s`);
});

test("a request that gets no KV slot in time is told to come again, and its worker serves the next one at once", async () => {
  const { gateway, url, workers } = await startAll([{ slot: () => "silent" }], {}, { limits: { ...limits, queueMs: 400 } });
  const response = await post(`${url}/v1/chat/completions`, chat({ stream: true }));
  assert.equal(response.status, 429, "a status, not a broken stream");
  assert.equal(((await response.json()) as any).error.code, "queue_full");
  assert.equal(await metric(gateway, "enodia_gateway_failovers_total{"), 0);
  workers[0]!.script = {};
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
  const ready = await fetch(`http://127.0.0.1:${gateway.probePort}/readyz`);
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

test("a client that goes away while it still sends its request is no error of the gateway", async () => {
  const { gateway, url } = await startAll([{}]);
  const headers = { "content-type": "application/json", "content-length": "1000" };
  const request = httpRequest(`${url}/v1/chat/completions`, { method: "POST", headers });
  request.on("error", () => {});
  request.write('{"model": "tiny",');
  await new Promise((resolve) => setTimeout(resolve, 100));
  request.destroy();
  const count = (code: number) => metric(gateway, `enodia_gateway_requests_total{endpoint="chat",code="${code}"`);
  await until("it is counted", async () => (await count(499)) === 1);
  assert.ok(Number.isNaN(await count(500)));
});

test("a client that reads slowly gets everything and nothing piles up in the gateway", async () => {
  const servedName = "m".repeat(20_000); // in every event: a thousand of them overflow what the kernel buffers
  const { gateway, url } = await startAll([{}], { maxContext: 2_000, servedName });
  const port = Number(new URL(url).port);
  const body = JSON.stringify({ model: servedName, prompt: "ab", temperature: 0, max_tokens: 1_500, stream: true });
  const socket = connectTcp({ port, host: "127.0.0.1" });
  onEnd(() => socket.destroy());
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

async function keyFile(text: string): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), "enodia-key-"));
  onEnd(() => rm(dir, { recursive: true }));
  await writeFile(join(dir, "key"), text);
  return join(dir, "key");
}

test("an API key is required, compared against the file, and re-read when it changes", async () => {
  const file = await keyFile("first\nsecond\n");
  const { url } = await startAll([{}], { apiKeyFile: file });
  const get = async (authorization?: string) =>
    (await fetch(`${url}/v1/models`, { headers: authorization ? { authorization } : {} })).status;
  assert.equal(await get(), 401);
  assert.equal(await get("Bearer wrong"), 401);
  assert.equal(await get("Basic first"), 401);
  assert.equal(await get("Bearer first"), 200);
  assert.equal(await get("bearer second"), 200);
  for (const path of ["healthz", "health", "ping", "version"])
    assert.equal((await fetch(`${url}/${path}`)).status, 200, "probes need no key");
  await writeFile(file, "third\n");
  await until("the new key counts", async () => (await get("Bearer third")) === 200);
  assert.equal(await get("Bearer first"), 401);
  await rm(file);
  await new Promise((resolve) => setTimeout(resolve, 1_100));
  assert.equal(await get("Bearer third"), 200, "a file that is gone for a moment locks nobody out");
  assert.equal(await get("Bearer first"), 401);
});

test("a client that is named behind its key has its own limits and priority, and others have none", async () => {
  const clients = [{ name: "batch", requestsPerMinute: 2, priority: 7 }];
  const { gateway, url, workers } = await startAll([{}], { apiKeyFile: await keyFile("first batch\nsecond batch\nthird\n"), clients });
  const ask = (key: string, extra: object = {}) => post(`${url}/v1/chat/completions`, chat(extra), { authorization: `Bearer ${key}` });
  assert.equal((await ask("first")).status, 200);
  assert.equal((await ask("second", { priority: 1 })).status, 200);
  const refused = await ask("first");
  assert.equal(refused.status, 429);
  assert.ok(Number(refused.headers.get("retry-after")) > 20, "half a minute for each");
  const told = (of: Response) => ["limit", "remaining", "reset"].map((part) => of.headers.get(`x-ratelimit-${part}-requests`));
  assert.deepEqual(told(refused).slice(0, 2), ["2", "0"]);
  assert.match(told(refused)[2] ?? "", /^(5\ds|1m0s)$/);
  assert.deepEqual(told(await ask("third")), [null, null, null]);
  assert.equal(((await refused.json()) as any).error.code, "rate_limit_exceeded");
  for (let i = 0; i < 3; i++) assert.equal((await ask("third")).status, 200);
  assert.equal((await fetch(`${url}/v1/models`, { headers: { authorization: "Bearer first" } })).status, 200, "a list costs nothing");
  assert.deepEqual(
    workers[0]!.requests.map(({ priority }) => priority),
    [7, 7, 0, 0, 0, 0],
  );
  assert.equal(await metric(gateway, 'enodia_gateway_rejected_total{reason="quota"'), 1);
});

test("a browser may ask from the pages that were named, keys or not, and from no others", async () => {
  const page = "https://app.example.com";
  const ask = async (url: string, origin: string, method: string, more: Record<string, string> = {}) => {
    const response = await fetch(`${url}/v1/chat/completions`, { method, headers: { origin, ...more } });
    await response.arrayBuffer();
    return response;
  };
  const asks = { "access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type,x-stainless-lang" };
  const allowed = (response: Response) => response.headers.get("access-control-allow-origin");
  const { url } = await startAll([{}], { apiKeyFile: await keyFile("secret\n"), corsOrigins: [page] });
  const first = await ask(url, page, "OPTIONS", asks);
  assert.equal(first.status, 204, "without a key, as browsers ask");
  assert.equal(allowed(first), page);
  assert.match(first.headers.get("access-control-allow-headers") ?? "", /x-stainless-lang/);
  const unknown = await ask(url, page, "POST");
  assert.deepEqual([unknown.status, allowed(unknown)], [401, page], "the page may read why");
  assert.match(unknown.headers.get("access-control-expose-headers") ?? "", /x-request-id/);
  assert.equal(allowed(await ask(url, "https://other.example.com", "OPTIONS", asks)), null);
  const closed = await startAll([{}]);
  assert.equal(allowed(await ask(closed.url, page, "OPTIONS", asks)), null, "none were named");
  const open = await startAll([{}], { corsOrigins: ["*"] });
  assert.equal(allowed(await ask(open.url, page, "OPTIONS", asks)), "*");
});

test("with prefix isolation callers of other keys share no prefixes, whatever salts they name", async () => {
  const saltsOf = async (prefixIsolation: boolean): Promise<string[]> => {
    const { url, workers } = await startAll([{}], { apiKeyFile: await keyFile("first\nsecond\n"), prefixIsolation });
    const own = JSON.stringify([`key:${createHash("sha256").update("first").digest("hex")}`, ""]);
    for (const key of ["first", "second"])
      for (const salt of [undefined, "s", own]) {
        const asked = chat({ cache_salt: salt });
        assert.equal((await post(`${url}/v1/chat/completions`, asked, { authorization: `Bearer ${key}` })).status, 200);
      }
    return workers[0]!.requests.map(({ cacheSalt }) => cacheSalt);
  };
  const isolated = await saltsOf(true);
  assert.equal(new Set(isolated).size, 6);
  const shared = await saltsOf(false);
  assert.deepEqual(shared.slice(0, 3), shared.slice(3));
  assert.deepEqual(shared.slice(0, 2), ["", "s"]);
});

test("a key file without a key stops the start", async () => {
  await assert.rejects(startAll([], { apiKeyFile: await keyFile("\n") }), { code: "ApiKeyUnreadable" });
});

interface Asked {
  readonly path?: string;
  readonly method?: string;
  /** May be raw bytes. */
  readonly body?: string | Uint8Array<ArrayBuffer>;
}
const chatOf = (extra: object): Asked => ({ body: JSON.stringify(chat(extra)) });
const complete = (prompt: unknown): Asked => ({ path: "/v1/completions", body: JSON.stringify({ model: "tiny", prompt }) });
const says = (role: string, content: string) => chatOf({ messages: [{ role, content }] });

/** Requests that end at the API. */
const refused: readonly (readonly [what: string, asked: Asked, status: number, code: string, param?: string])[] = [
  ["malformed JSON", { body: '{"model": ' }, 400, "invalid_json"],
  ["an empty body", { body: "" }, 400, "invalid_json"],
  ["bytes that are no UTF-8", { body: new Uint8Array([0x22, 0xff, 0x22]) }, 400, "invalid_json"],
  ["a deeply nested body", { body: `${"[".repeat(200_000)}${"]".repeat(200_000)}` }, 400, "invalid_value"],
  ["a body above the limit", { body: `{"x":"${"a".repeat(9 * 1024 * 1024)}"}` }, 413, "request_too_large"],
  ["a wrong method", { method: "GET" }, 405, "method_not_allowed"],
  ["an unknown path", { path: "/v1/moderations", body: "{}" }, 404, "unknown_url"],
  ["embeddings of nothing", { path: "/v1/embeddings", body: `{"model":"tiny"}` }, 400, "invalid_value", "input"],
  ["a model whose name is no UTF-8", { path: "/v1/models/%FF", method: "GET" }, 404, "model_not_found", "model"],
  ["another model", chatOf({ model: "other" }), 404, "model_not_found", "model"],
  ["a prompt beyond the context", says("user", "x".repeat(600)), 400, "context_length_exceeded", "messages"],
  ["max_tokens beyond the context", chatOf({ max_tokens: 505 }), 400, "context_length_exceeded", "messages"],
  ["messages the template refuses", says("assistant", "me first"), 400, "invalid_value", "messages"],
  ["an empty prompt", complete(""), 400, "invalid_value", "prompt"],
  ["a token that the model lacks", complete([1, 300]), 400, "invalid_value", "prompt"],
];

test("bad requests get their status, code and field, and cost nothing", async () => {
  const { gateway, url, workers } = await startAll([{}]);
  for (const [what, { path = "/v1/chat/completions", ...asked }, status, code, param] of refused) {
    const response = await fetch(`${url}${path}`, { method: "POST", ...asked });
    assert.equal(response.status, status, what);
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

test("texts that are only counted leave the tokenizer to prompts, and are requests of their client", async () => {
  const { promise: held, resolve: release } = Promise.withResolvers<void>();
  const textModel = { ...byteText, encode: (text: string) => held.then(() => byteText.encode(text)) };
  const clients = [{ name: "batch", requestsPerMinute: 1, priority: 0 }];
  const { url } = await startAll([{}], { apiKeyFile: await keyFile("first batch\nsecond\n"), clients }, { textModel });
  const send = (key: string, path: string, body: object) => post(`${url}/${path}`, body, { authorization: `Bearer ${key}` });
  const flood = Array.from({ length: 40 }, () => send("second", "tokenize", { prompt: "a" }));
  const status = await Promise.race(flood.map(async (one) => (await one).status));
  assert.equal(status, 429);
  assert.equal((await send("second", "v1/chat/completions", chat())).status, 200);
  release();
  const answers = (await Promise.all(flood)).map((one) => one.status);
  assert.equal(answers.filter((one) => one === 200).length, 32);
  assert.deepEqual(
    [(await send("first", "detokenize", { tokens: [97] })).status, (await send("first", "tokenize", { prompt: "a" })).status],
    [200, 429],
  );
});

test("responses that are looked for are bounded at once, and are requests of their client", async () => {
  const kept = () => new Promise<{ kept: boolean }>((resolve) => setTimeout(resolve, 400, { kept: false }));
  const clients = [{ name: "batch", requestsPerMinute: 1, priority: 0 }];
  const { url, workers } = await startAll([{ kept }], { apiKeyFile: await keyFile("first batch\nsecond\n"), clients });
  const look = async (key: string) =>
    (await fetch(`${url}/v1/responses/resp_${"0".repeat(32)}`, { headers: { authorization: `Bearer ${key}` } })).status;
  const statuses = await Promise.all(Array.from({ length: 48 }, () => look("second")));
  assert.deepEqual([...new Set(statuses)].sort(), [404, 429]);
  assert.ok(statuses.filter((status) => status === 404).length >= 32);
  workers[0]!.script = {};
  assert.equal(await look("second"), 404);
  assert.equal((await post(`${url}/v1/chat/completions`, chat(), { authorization: "Bearer first" })).status, 200);
  assert.equal(await look("first"), 429);
});

test("large bodies behind one address are those of their keys", async () => {
  const { url } = await startAll([{}], { apiKeyFile: await keyFile("first\nsecond\n") });
  const claims = [0, 1].map(() => {
    const socket = connectTcp(Number(new URL(url).port), "127.0.0.1").on("error", () => {});
    onEnd(() => socket.destroy());
    return socket.write(
      `POST /v1/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer first\r\ncontent-length: ${8 * 1024 * 1024}\r\n\r\n`,
    );
  });
  assert.equal(claims.length, 2);
  const send = async (key: string) => (await post(`${url}/v1/completions`, "x".repeat(100_000), { authorization: `Bearer ${key}` })).status;
  await until("the first key's share is full", async () => (await send("first")) === 503);
  assert.equal(await send("second"), 400, "it was read");
});

test("who leaves an answer that is computed on has its place until then, and gets the answer by its key meanwhile", async () => {
  const clients = [{ name: "ours", priority: 0, concurrentRequests: 1 }];
  const state = { kept: true, over: false };
  const apiKeyFile = await keyFile("secret ours\n");
  const { url, workers } = await startAll([{ delayMs: 20, kept: async () => state }], { apiKeyFile, clients });
  const ask = (key: string, signal?: AbortSignal, tokens = 400) => {
    const headers = { authorization: "Bearer secret", "content-type": "application/json", "idempotency-key": key };
    const body = JSON.stringify(chat({ max_tokens: tokens, stream: true }));
    return fetch(`${url}/v1/chat/completions`, { method: "POST", headers, body, ...(signal ? { signal } : {}) });
  };
  const leave = async (key: string) => {
    const abort = new AbortController();
    const response = await ask(key, abort.signal);
    assert.equal(response.status, 200);
    abort.abort();
    await until("it has left", () => workers[0]!.active === 0);
  };
  await leave("k");
  for (let i = 0; i < 3; i++) assert.equal((await ask("l")).status, 429);
  await leave("k");
  for (const [key, tokens] of [["l"], ["k", 399]] as const) assert.equal((await ask(key, undefined, tokens)).status, 429);
  state.over = true;
  await until("its place is free", async () => (await ask("l")).status === 200);
});
