import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { type AddressInfo, connect, type Socket } from "node:net";
import { type TestContext, test } from "node:test";
import { until } from "../../../test/kit/wait.ts";
import { Bodies, type BodyPace, type Read } from "./bodies.ts";

const host = "127.0.0.1";
const mebibyte = 1024 * 1024;
const patient: BodyPace = { graceMs: 60_000, bytesPerSecond: 0 };

async function serve(t: TestContext, pace: BodyPace) {
  const bodies = new Bodies(pace);
  const reads: Read[] = [];
  const seen = { begun: 0 };
  const server = createServer(async (request, response) => {
    const reading = bodies.read(request);
    seen.begun += 1;
    const read = await reading;
    reads.push(read);
    response.shouldKeepAlive = false;
    response.writeHead("problem" in read ? read.problem.status : 200).end("bytes" in read ? Buffer.from(read.bytes) : "");
  });
  server.listen(0, host);
  await once(server, "listening");
  t.after(() => server.close());
  const { port } = server.address() as AddressInfo;
  /** `from`: the last byte of the client's address. */
  const send = (head: string, bytes: Uint8Array | string = "", from = 1): Socket => {
    const socket = connect({ host, port, localAddress: `127.0.0.${from}` }).on("error", () => {});
    t.after(() => socket.destroy());
    socket.write(`POST / HTTP/1.1\r\nhost: a\r\n${head}\r\n\r\n`);
    socket.write(bytes);
    return socket;
  };
  return { send, reads, seen };
}

async function said(socket: Socket): Promise<string> {
  let text = "";
  socket.on("data", (chunk) => (text += chunk));
  await new Promise((resolve) => socket.once("close", resolve));
  return text;
}
const statusOf = async (socket: Socket): Promise<number> => Number((await said(socket)).split(" ")[1]);
const length = (bytes: number): string => `content-length: ${bytes}`;
const chunked = "transfer-encoding: chunked";
const chunk = (bytes: number): string => `${bytes.toString(16)}\r\n${"x".repeat(bytes)}\r\n`;

test("a body comes whole, with its length and without", async (t) => {
  const { send } = await serve(t, patient);
  assert.match(await said(send(length(5), "hello")), /\r\nhello\r\n/);
  const large = send(chunked, chunk(70_000) + chunk(70_000));
  large.write("0\r\n\r\n");
  assert.match(await said(large), /x{1000}/);
});

test("a body above the limit is refused from its headers, or where it passes it", async (t) => {
  const { send } = await serve(t, patient);
  assert.equal(await statusOf(send(length(9 * mebibyte))), 413);
  assert.equal(await statusOf(send(chunked, chunk(9 * mebibyte))), 413);
});

test("a slow body ends with 408, and one that is gone is known", async (t) => {
  const { send, reads } = await serve(t, { graceMs: 100, bytesPerSecond: 1_000 });
  const began = performance.now();
  assert.equal(await statusOf(send(length(1_000), "x")), 408);
  assert.ok(performance.now() - began < 5_000);
  send(length(1_000), "x").destroySoon();
  await until("it is gone", () => reads.length === 2);
  assert.deepEqual(reads[1], { gone: true });
});

test("where the sum is full, large bodies are refused before a byte of them and small ones are not, until one leaves", async (t) => {
  const { send, reads, seen } = await serve(t, patient);
  const held = Array.from({ length: 3 }, (_, i) => send(length(8 * mebibyte), "x", 2 + i));
  await until("the sum is full", () => seen.begun === held.length);
  assert.equal(await statusOf(send(length(mebibyte))), 503);
  assert.equal(await statusOf(send(chunked, chunk(mebibyte))), 503);
  const [refused] = reads;
  assert.equal(refused && "problem" in refused && refused.problem.retryAfterSeconds, 2);
  assert.equal(await statusOf(send(length(5), "hello")), 200);
  held[0]?.destroy();
  await until("one has left", () => reads.some((read) => "gone" in read));
  const next = send(length(7 * mebibyte), Buffer.alloc(7 * mebibyte));
  assert.equal(await statusOf(next), 200);
  assert.equal(await statusOf(send(length(mebibyte))), 503, "it has not left the sum");
  for (const read of reads) if ("bytes" in read) for (let twice = 0; twice < 2; twice++) read.leave();
  assert.equal(await statusOf(send(length(mebibyte), Buffer.alloc(mebibyte))), 200);
});

test("one client's large bodies leave room for those of others, and its small ones are taken", async (t) => {
  const { send, seen } = await serve(t, patient);
  const held = Array.from({ length: 2 }, () => send(length(8 * mebibyte), "x"));
  await until("its share is full", () => seen.begun === held.length);
  assert.equal(await statusOf(send(length(mebibyte), Buffer.alloc(mebibyte))), 503);
  assert.equal(await statusOf(send(length(5), "hello")), 200);
  assert.equal(await statusOf(send(length(7 * mebibyte), Buffer.alloc(7 * mebibyte), 2)), 200);
  held[0]?.destroy();
  await until("its share has room", async () => (await statusOf(send(length(mebibyte), Buffer.alloc(mebibyte)))) === 200);
});

test("one that has been read for long gives way where the sum is full", async (t) => {
  const { send } = await serve(t, { graceMs: 300, bytesPerSecond: 1 });
  const held = Array.from({ length: 3 }, (_, i) => send(length(8 * mebibyte), "x".repeat(1_000), 2 + i));
  const ends = held.map(statusOf);
  await until("it is taken", async () => (await statusOf(send(length(mebibyte), Buffer.alloc(mebibyte)))) === 200);
  assert.equal(await Promise.race(ends), 408);
});

test("one that claims much and sends nearly nothing gives way at once where the sum is full", async (t) => {
  const { send } = await serve(t, { graceMs: 60_000, bytesPerSecond: 1_000 });
  const held = Array.from({ length: 3 }, (_, i) => send(length(8 * mebibyte), "x", 2 + i));
  const ends = held.map(statusOf);
  await until("it is taken", async () => (await statusOf(send(length(mebibyte), Buffer.alloc(mebibyte)))) === 200);
  assert.equal(await Promise.race(ends), 408);
});

test("bytes that came another way count in the sum and in their client's share", () => {
  const bodies = new Bodies(patient);
  const held = bodies.hold(16 * mebibyte, "a");
  assert.equal(bodies.hold(mebibyte, "a"), undefined);
  assert.ok(bodies.hold(8 * mebibyte, "b"));
  assert.equal(bodies.hold(mebibyte, "b"), undefined);
  held?.();
  assert.ok(bodies.hold(mebibyte, "b"));
});
