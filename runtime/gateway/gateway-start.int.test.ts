// The start of a gateway that has no model: not ready, and saying why, until a rank is there that gives it the tokenizer; then it serves.
// And its end: answers that have begun come whole, new connections are taken by it or by none.

import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { chat, chatPrompt, expected, stream, useGateways } from "../../test/kit/gateway/gateway-host.ts";
import { localGateway } from "../../test/kit/gateway/local-gateway.ts";
import { freePort } from "../../test/kit/network/free-port.ts";
import { doubleEngine } from "../../test/kit/ranks/double-engine.ts";
import { deployment, deploymentUid, namespace, Ranks, tinyStore } from "../../test/kit/ranks/ranks.ts";
import { until } from "../../test/kit/wait.ts";
import { silentLog } from "../observe/log.ts";
import { startGateway } from "./gateway.ts";

test("a gateway waits for the tokenizer from a rank, says so, and serves once it has it", { timeout: 120_000 }, async () => {
  const store = await tinyStore();
  const ranks = new Ranks(store, () => ({ overrides: { createEngine: doubleEngine(store.index, { layerMs: 0 }) } }));
  const probePort = await freePort();
  let launched = false;
  const starting = startGateway(
    { ...localGateway, namespace, deployment, deploymentUid, maxContext: 4096, textDir: join(store.dir, "../text"), probePort },
    {
      ...{ tls: ranks.ca.issue("gateway", namespace, deployment), log: silentLog },
      peers: async () => (launched ? [ranks.address(0)] : []),
    },
  );
  const probe = async (path: string) => {
    const response = await fetch(`http://127.0.0.1:${probePort}/${path}`);
    return { status: response.status, text: await response.text() };
  };
  await until("it says what it waits for", async () => /text: waits/.test((await probe("readyz").catch(() => undefined))?.text ?? ""));
  assert.match((await probe("readyz")).text, /^text: waits for the tokenizer from a rank: no membership known yet$/m);
  assert.equal((await probe("healthz")).status, 200, "waiting is no illness");
  await ranks.launch(0);
  await ranks.firstPlan();
  launched = true;
  const gateway = await starting;
  try {
    await until("it is ready", async () => (await probe("readyz")).status === 200);
    const body = JSON.stringify({ model: "tiny", prompt: "hello", max_tokens: 4 });
    const response = await fetch(`http://127.0.0.1:${gateway.httpPort}/v1/completions`, { method: "POST", body });
    const answer: any = await response.json();
    assert.deepEqual([response.status, answer.usage?.completion_tokens], [200, 4], JSON.stringify(answer));
    // What ranks say of their files later is held against what it has.
    const { version, members } = gateway.pool.membership() ?? assert.fail();
    const others = members.map((member) => ({ ...member, textDigest: "f".repeat(64) }));
    gateway.apply({ version: version + 1, members: others });
    assert.match((await probe("readyz")).text, /^text: most ranks have another tokenizer/m);
  } finally {
    await gateway.close(0);
    await ranks.close();
    store.remove();
  }
});

const { startAll } = useGateways();
const clients = 8;

test("every answer that has begun comes whole, whenever the gateway is told to stop", async () => {
  const { url, gateway } = await startAll([{ delayMs: 20 }]);
  let stopped = false;
  let whole = 0;
  const client = async (): Promise<void> => {
    for (;;) {
      try {
        const { text, done } = await stream(`${url}/v1/chat/completions`, chat());
        assert.equal(text, expected(chatPrompt, 20));
        assert.ok(done);
        whole += 1;
      } catch (caught) {
        // Refused at the door, once it does not listen any more; a stream that is cut says "terminated".
        assert.ok(stopped && caught instanceof TypeError && caught.message === "fetch failed", String(caught));
        return;
      }
    }
  };
  const all = Promise.all(Array.from({ length: clients }, client));
  await until("each client has had answers", () => whole > clients);
  const before = whole;
  stopped = true;
  await gateway.close(20_000);
  await all;
  assert.ok(whole > before, "those that had begun came");
});
