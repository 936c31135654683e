import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { get, createServer as httpServer, type IncomingMessage } from "node:http";
import { type AddressInfo, connect, type Server, type Socket } from "node:net";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { connect as tlsConnect, createServer as tlsServer } from "node:tls";
import { createTestCa } from "../../test/kit/network/certs.ts";
import { until } from "../../test/kit/wait.ts";
import { type ConnectionBounds, Connections } from "./connections.ts";

const host = "127.0.0.1";
const handshakeMs = 400;
/** A record of 512 bytes begins with these, and never comes to its end. */
const clientHello = Buffer.from([22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]);

/** From an address of loopback that no other test uses. */
function holdAt(t: TestContext, port: number, localAddress = host): Socket {
  const socket = connect({ host, port, localAddress }).on("error", () => {});
  t.after(() => socket.destroy());
  return socket.resume();
}

async function serve(t: TestContext, server: Server, bounds: ConnectionBounds) {
  const refused: Record<string, number> = {};
  const messages: string[] = [];
  const connections = new Connections(server, bounds, ({ reason, connections: n, message }) => {
    refused[reason] = (refused[reason] ?? 0) + n;
    if (message !== undefined) messages.push(message);
  });
  server.listen(0, host);
  await once(server, "listening");
  t.after(() => {
    server.close();
    connections.cut();
  });
  return { port: (server.address() as AddressInfo).port, refused, messages };
}

function statusOf(port: number, localAddress = host): Promise<number | string> {
  return new Promise((resolve) => {
    const request = get({ host, port, localAddress, agent: false }, (response) => {
      response.resume().once("end", () => resolve(response.statusCode ?? 0));
    });
    request.once("error", ({ message }) => resolve(message));
  });
}

test("a client that says nothing, half of a hello, or bytes now and then loses its connection in time, and one with TLS does not", async (t) => {
  const material = createTestCa().local();
  const server = tlsServer(material, (socket) => socket.on("error", () => {}).end("hi"));
  const { port, refused, messages } = await serve(t, server, { total: 10, perAddress: 10, handshakeMs });
  const dripping = holdAt(t, port);
  let dripped = 0;
  const drip = setInterval(() => dripping.write(Buffer.of(clientHello[dripped++] ?? 0)), 50);
  t.after(() => clearInterval(drip));
  const half = holdAt(t, port);
  half.write(clientHello);
  const began = performance.now();
  const clients = [holdAt(t, port), half, dripping];
  const polite = tlsConnect({ host, port, ca: material.ca });
  t.after(() => polite.destroy());
  const [said] = (await once(polite, "data")) as [Buffer];
  // One that was writing sees an error first, which `once` would throw.
  await Promise.all(clients.map((socket) => new Promise((resolve) => socket.once("close", resolve))));
  assert.ok(performance.now() - began < handshakeMs + 3_000);
  assert.equal(String(said), "hi");
  await until("it is reported", () => refused.handshake === 3);
  assert.match(messages[0] ?? "", /^3 connections ended: TLS was not agreed on within 400 ms$/);
});

test("an address with too many loses its longest idle one, none in use, and others are answered", async (t) => {
  const server = httpServer((request, response) => (request.url === "/long" ? void response.write("a") : response.end("b")));
  const { port, refused } = await serve(t, server, { total: 20, perAddress: 3 });
  const first = holdAt(t, port, "127.0.0.2");
  const longs = Array.from({ length: 4 }, () => get({ host, port, path: "/long", localAddress: "127.0.0.2", agent: false }));
  t.after(() => longs.map((long) => long.destroy()));
  const ended: number[] = [];
  for (const [i, long] of longs.entries()) long.once("error", () => ended.push(i));
  await Promise.all(longs.map((long) => once(long, "response")));
  assert.equal(first.readyState, "open", "those in use do not count");
  const more = Array.from({ length: 3 }, () => holdAt(t, port, "127.0.0.2"));
  await once(first, "close");
  assert.deepEqual([await statusOf(port, "127.0.0.3"), await statusOf(port, "127.0.0.2")], [200, 200]);
  assert.deepEqual([more[0]?.closed, more[2]?.readyState, ended], [true, "open", []]);
  await until("it is reported", () => refused.address === 2);
});

for (const endsUsed of [false, true])
  test(`beyond the total ${endsUsed ? "the oldest in use gives way" : "none in use gives way"}`, async (t) => {
    const server = httpServer((request, response) => (request.url === "/long" ? void response.write("a") : response.end("b")));
    const { port, refused } = await serve(t, server, { total: 4, perAddress: 4, endsUsed });
    const quiet = holdAt(t, port, "127.0.0.9");
    const crowd = Array.from({ length: 3 }, () => holdAt(t, port, "127.0.0.8"));
    await Promise.all(crowd.map((socket) => once(socket, "connect")));
    assert.equal(await statusOf(port, "127.0.0.7"), 200);
    await until("the crowd pays for it", () => crowd[0]?.closed === true);
    assert.equal(quiet.readyState, "open");
    for (const socket of [quiet, ...crowd]) socket.destroy();
    const longs = Array.from({ length: 4 }, () => get({ host, port, path: "/long", agent: false }).on("error", () => {}));
    t.after(() => longs.map((long) => long.destroy()));
    const responses = (await Promise.all(longs.map((long) => once(long, "response")))).map(([response]) => response as IncomingMessage);
    const answered = await statusOf(port, "127.0.0.7");
    assert.equal(answered === 200, endsUsed, String(answered));
    await sleep(50);
    assert.equal(responses.filter(({ destroyed }) => destroyed).length, endsUsed ? 1 : 0);
    await until("it is reported", () => refused.total === 2);
  });

const listening = `
import { createServer } from "node:http";
import { Connections } from "${new URL("./connections.ts", import.meta.url)}";
const server = createServer((_, response) => response.end("ok"));
new Connections(server, { total: 1_000, perAddress: 1_000 }, ({ reason, message }) => console.log(reason, message));
server.listen(0, "127.0.0.1", () => console.log("port", server.address().port));
`;

test("a process of few file descriptors goes on to answer", async (t) => {
  const child: ChildProcess = spawn("sh", [
    "-c",
    'ulimit -n 80; exec "$0" --input-type=module-typescript -e "$1"',
    process.execPath,
    listening,
  ]);
  t.after(() => child.kill("SIGKILL"));
  let [said, failed] = ["", ""];
  child.stdout?.on("data", (chunk) => (said += chunk));
  child.stderr?.on("data", (chunk) => (failed += chunk));
  await until("it listens", () => /port \d+/.test(said));
  const port = Number(/port (\d+)/.exec(said)?.[1]);
  for (let i = 0; i < 100; i++) holdAt(t, port);
  for (let i = 0; i < 20; i++) assert.equal(await statusOf(port), 200, failed);
  await until("it is said", () => /total \d+ connections ended: there are more than 10 .*ulimit -n/.test(said));
});

test("an error while accepting is counted and ends nothing", async (t) => {
  const server = httpServer((_, response) => response.end("ok"));
  const { port, refused } = await serve(t, server, { total: 4, perAddress: 4 });
  server.emit("error", new Error("accept EMFILE"));
  assert.equal(await statusOf(port), 200);
  await until("it is reported", () => refused.accept === 1);
});
