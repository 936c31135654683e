// Five hundred connections that say nothing are held to every health port of a worker, a gateway and the operator, from the very
// address that asks: probes and scrapes are answered all the same, as fast as a kubelet wants. test/e2e/12-soaks.e2e.test.ts holds
// them for minutes to pods.

import assert from "node:assert/strict";
import { get } from "node:http";
import { connect } from "node:net";
import { after, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { useGateways } from "../../test/kit/gateway/gateway-host.ts";
import { type HeldSockets, holdSockets } from "../../test/kit/network/held-sockets.ts";
import { doubleEngine } from "../../test/kit/ranks/double-engine.ts";
import { Ranks, tinyStore } from "../../test/kit/ranks/ranks.ts";
import { until } from "../../test/kit/wait.ts";
import { createHealth, serveHealth } from "./health.ts";
import { silentLog } from "./log.ts";
import { createMetrics } from "./runtime-metrics.ts";

const host = "127.0.0.1";
const socketsHeld = 500;
const reopenMs = 1_000;
const heldForMs = 3_000;
const probeEveryMs = 250;
/** More than the 2 s of a readiness probe: here the clients have the same thread. */
const probeTimeoutMs = 5_000;
/** Connections that a server keeps of one address; between two waves of clients that come again no more are open. */
const openMax = 8;

interface Ports {
  readonly probePort: number;
  readonly metricsPort: number;
}

/** Asks on a connection of its own, as a kubelet does; the status, or why there is none. */
function ask(port: number, path: string): Promise<number | string> {
  return new Promise((resolve) => {
    const request = get({ host, port, path, agent: false, timeout: probeTimeoutMs }, (response) => {
      response.resume();
      response.once("end", () => resolve(response.statusCode ?? 0));
    });
    request.once("timeout", () => request.destroy(new Error(`no answer in ${probeTimeoutMs} ms`)));
    request.once("error", (error) => resolve(error.message));
  });
}

async function outlast({ probePort, metricsPort }: Ports): Promise<void> {
  const held: HeldSockets[] = [];
  try {
    for (const port of [probePort, metricsPort]) held.push(holdSockets(host, port, { count: socketsHeld, reopenMs }));
    await sleep(probeEveryMs);
    const end = performance.now() + heldForMs;
    while (performance.now() < end) {
      assert.equal(await ask(probePort, "/healthz"), 200);
      assert.equal(await ask(probePort, "/readyz"), 200);
      assert.equal(await ask(metricsPort, "/metrics"), 200);
      await sleep(probeEveryMs);
    }
    for (const { open } of held) await until("idle connections to be closed", () => open() <= openMax);
  } finally {
    for (const one of held) one.close();
  }
}

const { startAll } = useGateways();

test("a gateway under held connections stays live, ready and scraped", { timeout: 60_000 }, async () => {
  const { gateway } = await startAll([{}]);
  await outlast(gateway);
});

test("a worker under held connections stays live, ready and scraped", { timeout: 60_000 }, async () => {
  const store = await tinyStore();
  after(() => store.remove());
  const ranks = new Ranks(store, () => ({ overrides: { createEngine: doubleEngine(store.index) } }));
  try {
    const { worker } = await ranks.launch(0);
    await ranks.firstPlan();
    await outlast(worker);
  } finally {
    await ranks.close();
  }
});

/** The server as the operator starts it. */
async function operatorServer() {
  const metrics = createMetrics({ process: "operator", version: "0" });
  const server = await serveHealth({ health: createHealth(), metrics, probePort: 0, metricsPort: 0, host, log: silentLog });
  const close = async () => void (await Promise.all([server.close(), metrics.close()]));
  return { ...server, close };
}

test("an operator under held connections stays live, ready and scraped", { timeout: 60_000 }, async () => {
  const server = await operatorServer();
  try {
    await outlast(server);
  } finally {
    await server.close();
  }
});

test("a connection that sends its request too slowly, or nothing, is closed", { timeout: 30_000 }, async () => {
  const server = await operatorServer();
  const lifetime = async (send: (socket: ReturnType<typeof connect>) => void): Promise<number> => {
    const began = performance.now();
    const socket = connect({ host, port: server.probePort });
    socket.on("error", () => {}).resume();
    send(socket);
    await new Promise((resolve) => socket.once("close", resolve));
    return performance.now() - began;
  };
  const dripping = (socket: ReturnType<typeof connect>): void => {
    socket.write("GET /healthz HTTP/1.1\r\nhost: x\r\n");
    const drip = setInterval(() => socket.write("x: y\r\n"), 200);
    socket.once("close", () => clearInterval(drip));
  };
  try {
    for (const ms of await Promise.all([lifetime(() => {}), lifetime(dripping)])) assert.ok(ms < 10_000, `closed after ${ms} ms`);
  } finally {
    await server.close();
  }
});

test("clients of many addresses leave room for one more, and none of them takes another's place with it", { timeout: 30_000 }, async () => {
  const server = await operatorServer();
  const held = Array.from({ length: 12 }, (_, i) => connect({ host, port: server.probePort, localAddress: `127.0.0.${i + 10}` }));
  const quiet = connect({ host, port: server.probePort, localAddress: "127.0.0.9" }).resume();
  let quietClosed = false;
  quiet.once("close", () => {
    quietClosed = true;
  });
  try {
    const many = Array.from({ length: 96 }, (_, i) => connect({ host, port: server.probePort, localAddress: `127.0.0.${(i % 12) + 10}` }));
    held.push(...many);
    for (const socket of held) socket.on("error", () => {}).resume();
    await sleep(500);
    assert.equal(await ask(server.probePort, "/healthz"), 200);
    assert.equal(quietClosed, false, "an address with one connection keeps it");
  } finally {
    for (const socket of [...held, quiet]) socket.destroy();
    await server.close();
  }
});
