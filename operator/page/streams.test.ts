// The bounds of streams over real sockets, by ticks of the test's own.
import assert from "node:assert/strict";
import { createServer, type ServerResponse } from "node:http";
import { type AddressInfo, connect, type Socket } from "node:net";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { unbounded } from "./scope.ts";
import { PageState } from "./state.ts";
import { messageBytesMax, Streams, stalledMs, streamMs } from "./streams.ts";

const state = { now: 1_700_000_000_000, message: "" };
const moed = () => {
  const conditions = [
    { type: "Ready", status: "True", reason: "Fine", message: state.message, lastTransitionTime: "2026-03-01T10:00:00Z" },
  ];
  return {
    apiVersion: "x",
    kind: "MoEDeployment",
    metadata: { namespace: "ns", name: "a", uid: "u" },
    spec: { model: { uri: "pvc://m/x" } },
    status: { conditions },
  };
};

/** One client of a real server, and the answer that it is served by. */
async function connected(run: (made: { streams: Streams; response: ServerResponse; socket: Socket }) => Promise<void>): Promise<void> {
  state.message = "first";
  const pageState = new PageState({
    cache: { list: (name) => (name === "moeDeployments" ? [moed()] : []) },
    warnings: { of: () => ({ events: [], unread: [] }) },
    now: () => state.now,
  });
  pageState.lead({ placement: () => undefined });
  const streams = new Streams({ pageState, now: () => state.now, onError: (error) => assert.fail(String(error)) });
  const answered = Promise.withResolvers<ServerResponse>();
  const server = createServer((_, response) => {
    streams.add(response, "", new URLSearchParams(), () => unbounded);
    answered.resolve(response);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const socket = connect((server.address() as AddressInfo).port, "127.0.0.1");
  socket.on("error", () => {});
  socket.write("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
  try {
    await run({ streams, response: await answered.promise, socket });
  } finally {
    socket.destroy();
    streams.close();
    server.closeAllConnections();
    server.close();
  }
}

/** The condition's message is at most 2,048 characters in an object that can be read: many ticks fill the kernel's buffers. */
const big = (n: number): string => `${n} ${"x".repeat(2_000)}`;

test("who does not read has one state waiting and no queue of them, and is let go after a while", async () => {
  await connected(async ({ streams, response, socket }) => {
    socket.pause();
    let n = 0;
    for (; n < 20_000 && !response.writableNeedDrain; n++) {
      state.message = big(n);
      streams.tick();
      if (n % 200 === 0) await sleep(1);
    }
    assert.ok(response.writableNeedDrain, "the kernel takes no more");
    const waiting = response.writableLength;
    assert.ok(waiting < messageBytesMax);
    for (let more = 0; more < 50; more++) {
      state.message = big(n + more);
      streams.tick();
    }
    assert.equal(response.writableLength, waiting, "nothing is put behind it");
    state.now += stalledMs - 1;
    streams.tick();
    assert.equal(streams.size, 1);
    state.now += 1;
    streams.tick();
    await sleep(50);
    assert.equal(streams.size, 0);
  });
});

test("who reads on again gets what is now, and not what was between", async () => {
  await connected(async ({ streams, response, socket }) => {
    let read = "";
    socket.on("data", (chunk) => {
      read += chunk;
    });
    socket.pause();
    for (let n = 0; n < 20_000 && !response.writableNeedDrain; n++) {
      state.message = big(n);
      streams.tick();
      if (n % 200 === 0) await sleep(1);
    }
    for (const message of ["between", "now"]) {
      state.message = message;
      streams.tick();
    }
    socket.resume();
    for (let n = 0; n < 200 && response.writableNeedDrain; n++) await sleep(10);
    streams.tick();
    for (let n = 0; n < 200 && !read.includes(">now<"); n++) await sleep(10);
    assert.ok(read.includes(">now<") && !read.includes(">between<"));
  });
});

test("a stream ends after its time, so that its reader is asked anew", async () => {
  await connected(async ({ streams, socket }) => {
    const ended = new Promise((resolve) => socket.once("end", resolve));
    socket.resume();
    state.now += streamMs;
    streams.tick();
    await ended;
  });
});

test("a view that cannot be made ends its own stream, and is told of", async () => {
  const problems: unknown[] = [];
  let broken = false;
  const source: PageState["source"] = () => {
    if (broken) throw new Error("planted");
    return new PageState({
      cache: { list: () => [] },
      warnings: { of: () => ({ events: [], unread: [] }) },
      now: () => state.now,
    }).source();
  };
  const streams = new Streams({
    pageState: { leads: true, leader: undefined, source },
    now: () => state.now,
    onError: (error) => problems.push(error),
  });
  const server = createServer((_, response) => void streams.add(response, "", new URLSearchParams(), () => unbounded));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const socket = connect((server.address() as AddressInfo).port, "127.0.0.1");
  socket.on("error", () => {});
  socket.write("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
  await new Promise((resolve) => socket.once("data", resolve));
  broken = true;
  streams.tick();
  assert.equal(problems.length, 1);
  for (let n = 0; n < 100 && streams.size > 0; n++) await sleep(10);
  assert.equal(streams.size, 0);
  socket.destroy();
  server.close();
});
