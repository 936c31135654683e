// The operator as a process while its API server is away, or refuses it a namespace: it waits, stays live and goes on by itself.
// test/e2e/12-soaks.e2e.test.ts stops a real API server for a quarter of an hour.

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { ref, world } from "../test/kit/deployment/moe-world.ts";
import { FakeApiServer } from "../test/kit/kube/fake-api-server.ts";
import { freePort } from "../test/kit/network/free-port.ts";
import { until } from "../test/kit/wait.ts";
import { resources } from "./kube/kube.ts";

/** Longer than the lease is kept without renewal. */
const outageMs = 13_000;
const folder = mkdtempSync(join(tmpdir(), "enodia-outage-"));
const running = new Set<ChildProcess>();
after(() => {
  for (const child of running) child.kill("SIGKILL");
  rmSync(folder, { recursive: true, force: true });
});

async function startOperator(api: FakeApiServer, namespaces: string) {
  const kubeconfig = join(folder, "kubeconfig.json");
  const context = { name: "fake", context: { cluster: "fake", user: "fake" } };
  // Plain HTTP is for who says that the certificate is not to be looked at.
  const clusters = [{ name: "fake", cluster: { server: api.url, "insecure-skip-tls-verify": true } }];
  writeFileSync(
    kubeconfig,
    JSON.stringify({ clusters, users: [{ name: "fake", user: {} }], contexts: [context], "current-context": "fake" }),
  );
  const probePort = await freePort();
  const env = {
    PATH: process.env.PATH,
    HOME: folder,
    ENODIA_WATCH_NAMESPACES: namespaces,
    ENODIA_METRICS_PORT: "0",
    ENODIA_PROBE_PORT: String(probePort),
  };
  const child = spawn(process.execPath, [join(import.meta.dirname, "main.ts"), "--kubeconfig", kubeconfig], { env, stdio: "ignore" });
  running.add(child);
  const probe = async (path: string): Promise<string> => {
    const response = await fetch(`http://127.0.0.1:${probePort}${path}`, { signal: AbortSignal.timeout(2_000) });
    return `${response.status} ${await response.text()}`;
  };
  return { child, probe };
}

test("an API server that is away at the start and later ends nothing, and a refused namespace is told apart", {
  timeout: 240_000,
}, async (t) => {
  const moe = await world(t);
  moe.kubelet.stop();
  const api = new FakeApiServer(moe.kube);
  t.after(() => api.away());
  await api.listen();
  await api.away();
  api.forbidden.add("refused");
  const { child, probe } = await startOperator(api, `${ref.namespace},refused`);
  await until("it to be live without an API server", async () => (await probe("/healthz").catch(() => "")) === "200 ok\n");
  await until("it to say what it waits for", async () => /^503 informers: .*does not answer/.test(await probe("/readyz")));
  await api.listen();
  await until("its pods", () => moe.pods.length === 3);
  await until("it to be ready, with a warning", async () => /^200 ok\nnamespace refused: .*forbidden/.test(await probe("/readyz")));

  await api.away();
  const end = performance.now() + outageMs;
  while (performance.now() < end) {
    assert.equal(await probe("/healthz"), "200 ok\n");
    await sleep(500);
  }
  assert.match(await probe("/readyz"), /^503 informers: /);
  api.forbidden.clear();
  moe.remove("pods", moe.pods[0].metadata.name);
  await api.listen();
  await until("the lost rank to be replaced", () => moe.pods.length === 3);
  assert.equal(child.exitCode, null, "it is the same process");

  await until("the namespace to be taken up that is allowed since", async () => (await probe("/readyz")) === "200 ok\n");
  const ended = new Promise((resolve) => child.once("exit", resolve));
  child.kill("SIGTERM");
  assert.equal(await ended, 0);
  const lease = await api.kube.get(resources.leases, { namespace: "enodia-system", name: "enodia-operator" });
  assert.equal((lease?.spec as { holderIdentity?: string } | undefined)?.holderIdentity, "", "the lease is given back");
  running.delete(child);
});
