// The start of a gateway that has no model: not ready, and saying why, until a rank is there that gives it the tokenizer; then it serves.

import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
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
    {
      ...{ namespace, deployment, deploymentUid, podName: "gw", podUid: "gw", servedName: "tiny", maxContext: 4096 },
      ...{ textDir: join(store.dir, "../text"), probePort, tlsDir: "", httpPort: 0, grpcPort: 0, metricsPort: 0 },
      ...{ host: "127.0.0.1", logLevel: "silent", version: "0" },
    },
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
