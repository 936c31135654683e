// Clients that say nothing to the ports of a worker, a gateway with HTTPS, and a weight server's and a training pod's port for the operator.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { metric, useGateways } from "../../test/kit/gateway/gateway-host.ts";
import { engineHost } from "../../test/kit/network/engine-host.ts";
import { doubleEngine } from "../../test/kit/ranks/double-engine.ts";
import { Ranks, tinyStore } from "../../test/kit/ranks/ranks.ts";
import { until } from "../../test/kit/wait.ts";
import { silentLog } from "../observe/log.ts";
import { listenForOperator } from "./operator-port.ts";

const host = "127.0.0.1";
const clientHello = Buffer.from([22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]);
/** More than an address may have before TLS is agreed on. */
const clients = 300;
const closedWithinMs = 25_000;

const { startAll, issue } = useGateways();

test("connections end whose clients never agree on TLS, and others are answered meanwhile", { timeout: 90_000 }, async (t) => {
  const store = await tinyStore();
  const dir = mkdtempSync(join(tmpdir(), "enodia-https-"));
  const { cert, key } = issue("gateway").current();
  writeFileSync(join(dir, "tls.crt"), cert);
  writeFileSync(join(dir, "tls.key"), key);
  const { gateway } = await startAll([{}], { httpTlsDir: dir });
  const ranks = new Ranks(store, () => ({ overrides: { createEngine: doubleEngine(store.index) } }));
  const place = { name: "world", namespace: "ns", scope: "moe", host, port: 0, log: silentLog };
  const operatorPort = await listenForOperator({ ...place, tls: issue("gateway"), answer: (_, response) => void response.end() });
  const sockets: Socket[] = [];
  after(async () => {
    for (const socket of sockets) socket.destroy();
    await Promise.all([operatorPort.close(), ranks.close()]);
    store.remove();
    rmSync(dir, { recursive: true });
  });
  const rows = await engineHost(t, {
    ca: ranks.ca,
    namespace: "ns",
    name: "moe",
    hidden: 1,
    serve: async () => ({ type: "busy", afterMs: 1 }),
  });
  const { worker } = await ranks.launch(0);
  await ranks.firstPlan();
  const ports = {
    http: gateway.httpPort,
    gateway: gateway.grpcPort,
    control: worker.grpcPort,
    rows: rows.port,
    operatorPort: operatorPort.port,
  };
  const began = performance.now();
  const open = new Map<string, number>();
  const hold = (name: string, port: number, bytes = Buffer.alloc(0)): void => {
    const socket = connect({ host, port })
      .on("error", () => {})
      .resume();
    socket.write(bytes);
    sockets.push(socket);
    open.set(name, (open.get(name) ?? 0) + 1);
    socket.once("close", () => open.set(name, (open.get(name) ?? 0) - 1));
  };
  for (const [name, port] of Object.entries(ports)) {
    hold(name, port);
    hold(name, port, clientHello);
  }
  for (let i = 0; i < clients; i++) hold("many", ports.control);
  await until("an address has no more than its share", () => (open.get("many") ?? 0) <= 256);
  await ranks.push();
  await until("all are closed", () => [...open.values()].every((n) => n === 0));
  assert.ok(performance.now() - began < closedWithinMs);
  await until(
    "it is counted",
    async () => (await metric(gateway, 'enodia_refused_connections_total{port="http",reason="handshake"')) === 2,
  );
  assert.match(rows.problems.join(), /2 connections ended: TLS was not agreed on within 20000 ms/);
});
