// The gateway over real HTTP and real gRPC with mutual TLS, against scripted workers: its answers, and what the operator sees of it.

import assert from "node:assert/strict";
import { test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { AppError, operatorRank } from "../../crds/common.ts";
import { chat, chatPrompt, expected, post, stream, useGateways } from "../../test/kit/gateway/gateway-host.ts";
import { eosId, name, ns } from "../../test/kit/gateway/scripted-worker.ts";
import { until } from "../../test/kit/wait.ts";
import { Control, WatchPushSchema, type WatchStatus } from "../net/gen/enodia/runtime/v1/runtime_pb.js";
import { connect, fromStatus } from "../net/grpc.ts";
import { toMembership, toSender } from "../net/mapping.ts";
import { serverNames } from "../net/tls.ts";
import { createLog } from "../observe/log.ts";

const { startAll, issue, onEnd } = useGateways();

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
  assert.deepEqual(body.usage, {
    prompt_tokens: 8,
    completion_tokens: 20,
    total_tokens: 28,
    prompt_tokens_details: { cached_tokens: 0 },
    completion_tokens_details: { reasoning_tokens: 0 },
  });
});

test("the lines of a request have the id of its answer, by which `enodia logs --request` finds them", async () => {
  const lines: Record<string, unknown>[] = [];
  const log = createLog({ level: "info", name: "gateway", write: (line) => void lines.push(JSON.parse(line)) });
  const { url, workers } = await startAll([{}], {}, { log });
  const whole: any = await (await post(`${url}/v1/chat/completions`, chat())).json();
  workers[0]!.script = { before: (position) => (position > 1 ? new AppError("NaN", { code: "UnusableLogits" }) : undefined) };
  const cut = await stream(`${url}/v1/chat/completions`, chat());
  const found = (id: string) => lines.filter(({ answerId }) => answerId === id).map(({ message }) => message);
  assert.deepEqual(found(whole.id), ["request ended"]);
  assert.deepEqual(found(cut.events[0].id), ["request failed", "request ended"]);
});

test("/health and /ping say whether requests are answered, /version which release answers", async () => {
  const asked = async (url: string, path: string, method = "GET") => {
    const response = await fetch(`${url}/${path}`, { method });
    return [response.status, await response.text()];
  };
  for (const [workers, status] of [
    [[{}], 200],
    [[], 503],
  ] as const) {
    const { url } = await startAll([...workers], { version: "1.2.3" });
    for (const path of ["health", "ping"])
      for (const method of ["GET", "POST"]) assert.deepEqual(await asked(url, path, method), [status, ""], `${method} ${path}`);
    assert.deepEqual(await asked(url, "version"), [200, '{"version":"1.2.3"}']);
    assert.equal((await asked(url, "healthz"))[0], 200, "this process lives");
  }
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
  assert.deepEqual(result.events.at(-1).usage, {
    prompt_tokens: 8,
    completion_tokens: 20,
    total_tokens: 28,
    prompt_tokens_details: { cached_tokens: 0 },
    completion_tokens_details: { reasoning_tokens: 0 },
  });
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

test("a deadline ends a request that does not end by itself", async () => {
  const { workers, url } = await startAll([{ length: 3 }]);
  await post(`${url}/v1/chat/completions`, chat());
  assert.ok(workers[0]!.requests[0]!.deadlineUnixMs > BigInt(Date.now()));
  assert.deepEqual(workers[0]!.requests[0]!.eos, [eosId]);
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
test("the operator's watch brings membership and gets the gateway's state", async () => {
  const { gateway, workers, url } = await startAll([{}]);
  const address = `127.0.0.1:${gateway.grpcPort}`;
  const as = async (member: string) => {
    const client = connect(Control, { address, serverName: serverNames.gateway(ns, name), tls: await issue(member) });
    onEnd(client.close);
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
