// The bounds of the answering end: bytes of all connections together, and the time that a caller who is gone keeps a connection.

import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { connect } from "node:tls";
import { createTestCa } from "../../test/kit/network/certs.ts";
import { engineHost } from "../../test/kit/network/engine-host.ts";
import { until } from "../../test/kit/wait.ts";

import type { EngineHostOptions } from "./engine-host.ts";
import { encodeFrame, FrameReader, frameBytesMax, frameKinds, streamBytesMax } from "./frame-codec.ts";
import { Channel } from "./gen/enodia/runtime/v1/runtime_pb.js";
import { encodeHello, peerAlpn } from "./peer-connection.ts";
import { encodeRowsFrame, halfRowBytes, pairBytesMax, sumsForm } from "./rows-codec.ts";

const [namespace, name] = ["default", "mix"];
const hidden = 1_024;
/** Whose answer is as large as one may be, for a single row. */
const pairs = frameBytesMax / (hidden * 4);
const ca = createTestCa();
const [hostTls, callerTls] = [ca.issue("rank-0", namespace, name), ca.issue("rank-1", namespace, name)];
const none = new Uint8Array(0);

const hosted = (t: TestContext, serve: EngineHostOptions["serve"], sums = false) =>
  engineHost(t, { ca, tls: hostTls, namespace, name, hidden, sums, serve });

/** A caller that says what it is told to, and reads as long as it is not paused. */
function caller(t: TestContext, port: number, sums = "") {
  const { cert, key, ca } = callerTls.current();
  const servername = `rank-0.${name}.${namespace}.enodia`;
  const socket = connect({ host: "127.0.0.1", port, cert, key, ca, servername, ALPNProtocols: [peerAlpn] });
  socket.on("error", () => {});
  t.after(() => socket.destroy());
  /** Kinds of the frames that come from now on. */
  const answers = () => {
    const kinds: number[] = [];
    const reader = new FrameReader();
    socket.on("data", (chunk: Buffer) => reader.push(chunk, ({ kind }) => void kinds.push(kind)));
    return kinds;
  };
  socket.resume();
  const say = (frame: Parameters<typeof encodeFrame>[0]) => {
    for (const piece of encodeFrame(frame)) if (piece) socket.write(piece);
  };
  const sender = { $typeName: "enodia.runtime.v1.Sender", deploymentUid: "d", rank: 1, podUid: "u1", bootId: "b1" } as const;
  say({ kind: frameKinds.hello, head: encodeHello({ channel: Channel.ENGINE, sender, hidden, sums }), body: none });
  let seq = 0;
  const ask = (count = pairs, gates?: Float32Array) => {
    const indices = new Uint32Array(count);
    const head = encodeRowsFrame({ seq: ++seq, layer: 0, epoch: 1, decode: false, pairRows: indices, pairExperts: indices, gates });
    say({ kind: frameKinds.rows, head, body: new Uint8Array(gates ? halfRowBytes(hidden) : hidden * 4) });
  };
  const ping = () => say({ kind: frameKinds.ping, head: none, body: none });
  return { socket, ask, ping, answers };
}

test("connections share the bytes that a host holds for them, and a connection's first frame is declined when they are used up", async (t) => {
  let running = 0;
  const { port, server, refused } = await hosted(t, () => {
    running += 1;
    return new Promise(() => {});
  });
  const all = Math.floor((2 * streamBytesMax) / (frameBytesMax + hidden * 4));
  const one = Math.floor((1.5 * streamBytesMax) / (frameBytesMax + hidden * 4));
  const first = caller(t, port);
  for (let i = 0; i < one + 3; i++) first.ask();
  await until("the first has what one may have", () => running === one);
  const second = caller(t, port);
  for (let i = 0; i < all; i++) second.ask();
  await until("the second has the rest", () => running === all);
  const third = caller(t, port);
  const answers = third.answers();
  third.ask();
  await until("the third is answered", () => answers.includes(frameKinds.declined));
  assert.equal(running, all);
  assert.deepEqual(new Set(refused), new Set(["busy"]), "and counted");
  assert.ok(server.bytes <= 2 * streamBytesMax, `${server.bytes} bytes`);
});

test("ten connections of frames that ask for sums hold no more together, and each is answered once others have left", async (t) => {
  const waiting: (() => void)[] = [];
  const answer = new Uint8Array(halfRowBytes(hidden));
  const { port, server } = await hosted(t, () => new Promise((resolve) => waiting.push(() => resolve(answer))), true);
  const most = pairBytesMax(true) / (hidden * 4);
  const callers = Array.from({ length: 10 }, () => caller(t, port, sumsForm));
  const answers = callers.map((each) => each.answers());
  for (const each of callers) each.ask(most, new Float32Array(most));
  const declined = () => answers.flat().filter((kind) => kind === frameKinds.declined).length;
  await until("all are held or declined", () => waiting.length + declined() === 10);
  assert.ok(waiting.length > 0 && server.bytes <= 2 * streamBytesMax, `${waiting.length} frames, ${server.bytes} bytes`);
  for (const done of waiting.splice(0)) done();
  await until("nothing is held", () => server.bytes === 0);
  callers.at(-1)?.ask(most, new Float32Array(most));
  await until("there is room again", () => waiting.length === 1);
});

test("a frame that asks for sums has rows of pairs of 32 MiB computed, and no more; without, those of 8 MiB", async (t) => {
  for (const [sums, most] of [
    [true, pairBytesMax(true) / (hidden * 4)],
    [false, pairs],
  ] as const) {
    const asked: number[] = [];
    const serve: EngineHostOptions["serve"] = async ({ pairRows }, rows) => {
      asked.push(pairRows.length);
      return rows;
    };
    const { port, problems, refused } = await hosted(t, serve, sums);
    const { ask } = caller(t, port, sums ? sumsForm : "");
    for (const count of [most, most + 1, 1]) ask(count, sums ? new Float32Array(count) : undefined);
    await until("the last has come", () => asked.includes(1));
    assert.deepEqual([asked, problems, refused], [[most, 1], [], ["rejected"]]);
  }
});

test("a caller that is gone loses its connection although answers to it have not left, and not while they are computed", async (t) => {
  const waiting: (() => void)[] = [];
  const answer = new Uint8Array(frameBytesMax);
  const { port, server, problems } = await hosted(t, () => new Promise((resolve) => waiting.push(() => resolve(answer))));
  const { socket, ask } = caller(t, port);
  for (let i = 0; i < 6; i++) ask(); // with their answers more than sockets take
  await until("all have come", () => waiting.length === 6);
  socket.pause();
  let now = performance.now();
  const silence = (ms: number) => {
    for (const end = now + ms; now < end; now += 250) server.look(now);
  };
  silence(60_000);
  assert.deepEqual(problems, [], "its frames are still computed");
  for (const done of waiting) done();
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.ok(server.bytes > 0, "not all have left");
  silence(1_000);
  assert.match(problems.join(), /said nothing for/);
  await until("the connection is gone, and the bytes are free", () => server.connections === 0 && server.bytes === 0);
});
