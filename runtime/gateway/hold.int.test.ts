// A gateway of a deployment that is scaled to zero, over real HTTP and gRPC: it is ready, holds what comes, tells the operator at once,
// answers with the right text when a rank has come, and refuses when none does in time.

import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { operatorRank } from "../../crds/common.ts";
import { chat, chatPrompt, expected, limits, post, stream, useGateways } from "../../test/kit/gateway/gateway-host.ts";
import { name, ns } from "../../test/kit/gateway/scripted-worker.ts";
import { until } from "../../test/kit/wait.ts";
import { Control, WatchPushSchema, type WatchStatus } from "../net/gen/enodia/runtime/v1/runtime_pb.js";
import { connect } from "../net/grpc.ts";
import { type Membership, toMembership, toSender } from "../net/mapping.ts";
import { serverNames } from "../net/tls.ts";
import type { GatewayConfig } from "./gateway.ts";

const { startAll, issue, onEnd } = useGateways();
/** Far below the time that a request is held for, so that a test sees which of the two counts. */
const noWorkerMs = 1_000;
const impatient = { limits: { ...limits, noWorkerMs } };

/** A gateway beside a worker that is not among its ranks yet, and the operator's watch on it. */
async function atZero(holdMs: number, config: Partial<GatewayConfig> = {}) {
  const started = await startAll([{}], config, impatient);
  const { gateway, workers } = started;
  const tls = await issue("operator");
  const client = connect(Control, { address: `127.0.0.1:${gateway.grpcPort}`, serverName: serverNames.gateway(ns, name), tls });
  onEnd(client.close);
  const watch = client.watch();
  const statuses: WatchStatus[] = [];
  watch.on("data", (status) => statuses.push(status));
  watch.on("error", () => {});
  onEnd(() => watch.cancel());
  const sender = toSender({ deploymentUid: "uid", rank: operatorRank, podUid: "op", bootId: "b" });
  let version = 1;
  const push = (membership: Omit<Membership, "version">) =>
    watch.write(
      create(WatchPushSchema, { sender, push: { case: "membership", value: toMembership({ version: ++version, ...membership }) } }),
    );
  push({ members: [], holdMs });
  await until("it is known", () => statuses.at(-1)?.membershipVersion === 2n);
  const wake = () => push({ members: [workers[0]!.member()] });
  return { ...started, statuses, push, wake };
}

test("at zero it is ready and idle, and the first request is told at once and answered by the rank that comes", async () => {
  const { gateway, url, statuses, wake } = await atZero(60_000);
  assert.deepEqual(gateway.health.reasons(), []);
  const before = statuses.at(-1)?.front;
  assert.deepEqual([before?.wantsRanks, before?.unasked, (before?.idleMs ?? 0n) > 0n], [false, true, true]);
  const answer = post(`${url}/v1/chat/completions`, chat());
  await until("the operator is told", () => statuses.at(-1)?.front?.wantsRanks === true);
  assert.deepEqual([statuses.at(-1)?.front?.idleMs, statuses.at(-1)?.front?.unasked], [0n, false]);
  await new Promise((resolve) => setTimeout(resolve, 2 * noWorkerMs));
  wake();
  const response = await answer;
  const body: any = await response.json();
  assert.deepEqual([response.status, body.choices?.[0]?.message.content], [200, expected(chatPrompt, 20)], JSON.stringify(body));
  await until("nothing is wanted any more", () => statuses.at(-1)?.front?.wantsRanks === false);
});

test("who shows no key wakes nobody, whatever is asked", async () => {
  const dir = await mkdtemp(join(tmpdir(), "enodia-key-"));
  onEnd(() => rm(dir, { recursive: true }));
  await writeFile(join(dir, "key"), "secret\n");
  const { url, statuses } = await atZero(60_000, { apiKeyFile: join(dir, "key") });
  for (const path of ["chat/completions", "completions", "responses", "embeddings"])
    for (const headers of [{}, { authorization: "Bearer wrong" }])
      assert.equal(
        (await post(`${url}/v1/${path}`, chat({ prompt: "hi", input: "hi" }), headers as Record<string, string>)).status,
        401,
        path,
      );
  for (const path of ["health", "ping", "healthz", "metrics", "version"]) await fetch(`${url}/${path}`);
  assert.ok(statuses.every(({ front }) => front?.wantsRanks === false));
  void post(`${url}/v1/chat/completions`, chat(), { authorization: "Bearer secret" }).catch(() => undefined);
  await until("the key wakes ranks", () => statuses.at(-1)?.front?.wantsRanks === true);
});

test("a client that streams gets comments meanwhile, and then the whole text", async () => {
  const { url, wake } = await atZero(60_000);
  const answer = stream(`${url}/v1/chat/completions`, chat());
  setTimeout(wake, 5_500); // later than its first comment comes
  const { text, comments, done } = await answer;
  assert.deepEqual([text, done], [expected(chatPrompt, 20), true]);
  assert.equal(comments[0], ": waits for a rank to come");
});

test("a client that streams and goes away before it has read anything leaves its place", async () => {
  const { gateway, url, statuses } = await atZero(60_000);
  const abort = new AbortController();
  const body = JSON.stringify(chat({ stream: true }));
  const gone = fetch(`${url}/v1/chat/completions`, { method: "POST", body, signal: abort.signal });
  await until("it waits", () => statuses.at(-1)?.front?.wantsRanks === true);
  setTimeout(() => abort.abort(), 5_300);
  await assert.rejects(async () => (await gone).text());
  await until("it has left", () => statuses.at(-1)?.front?.wantsRanks === false);
  assert.deepEqual(gateway.health.reasons(), []);
});

test("when no rank comes in time it answers 503 with the reason and when to come again, to a stream too", async () => {
  const { url } = await atZero(2 * noWorkerMs);
  for (const request of [chat(), chat({ stream: true })]) {
    const began = performance.now();
    const response = await post(`${url}/v1/chat/completions`, request);
    assert.deepEqual([response.status, response.headers.get("retry-after")], [503, "5"]);
    assert.match(await response.text(), /scaled to zero, and no rank has come back in time/);
    assert.ok(performance.now() - began >= 2 * noWorkerMs);
  }
});

test("ranks that are away for another reason are waited for as ever: nothing is held that nobody said is to be", async () => {
  const { gateway, url, push } = await atZero(60_000);
  const held = post(`${url}/v1/chat/completions`, chat());
  await until("it is inside", async () => (await fetch(`${url}/metrics`)).text().then((text) => /waiting[^\n]* 1$/m.test(text)));
  push({ members: [] });
  assert.match(await (await held).text(), /No worker can take this request/);
  const response = await post(`${url}/v1/chat/completions`, chat());
  assert.equal(response.status, 503);
  assert.match(gateway.health.reasons().join(), /none of 0 workers is ready/);
});
