// Ranks of training over TLS: who is no rank of the world is refused, one that is lost or silent ends the wait by name, a rank that falls
// behind makes senders wait, and the sockets carry what payloads and heads come to.

import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { connect } from "node:tls";
import { AppError } from "../../../crds/common.ts";
import { Link } from "../../../test/kit/network/link.ts";
import { rankTls, strangerTls, WireRanks, type WireRanksOptions } from "../../../test/kit/training/wire-ranks.ts";
import { until } from "../../../test/kit/wait.ts";
import { encodeFrame, frameKinds } from "../frame-codec.ts";
import { Channel } from "../gen/enodia/runtime/v1/runtime_pb.js";
import { toSender } from "../mapping.ts";
import { encodeHello, peerAlpn } from "../peer-connection.ts";
import { chunkBytes, encodeChunk, payloadBytesMax } from "./wire-codec.ts";

const stamp = { world: 1, step: 1, plan: "a" };
const mebi = 2 ** 18;
const frame = (layer: number) => ({ what: "copies", layer, chunk: 0, piece: 0 });
const wanted = (layer: number, length: number) => ({ ...frame(layer), length });
const one = Int32Array.of(1);
const none = new Uint8Array(0);

async function opened(t: TestContext, ranks: number, options?: WireRanksOptions) {
  const wire = await WireRanks.open(ranks, options);
  t.after(() => wire.close());
  return wire;
}

/** Two ranks, the second of which is reached over a link that can be broken. */
async function linked(t: TestContext, limits: WireRanksOptions["limits"] = {}) {
  const link = await Link.open(() => wire.ports[1] as number);
  t.after(() => link.close());
  const own = (rank: number) => ({ address: (to: number) => (to === 1 ? link.address : `127.0.0.1:${wire.ports[to]}`), rank });
  const wire = await opened(t, 2, { limits, own });
  return { link, wire };
}

test("sockets carry the bytes that are said, with heads and TLS within 2%", async (t) => {
  const { link, wire } = await linked(t);
  const payload = new Float32Array(3 * mebi);
  await wire.transport(0).send(1, stamp, frame(0), one);
  await wire.transport(1).receive(0, stamp, wanted(0, 1));
  const before = link.bytes;
  for (let i = 0; i < 4; i++) {
    await wire.transport(0).send(1, stamp, frame(i), payload);
    await wire.transport(1).receive(0, stamp, wanted(i, payload.length));
  }
  const [said, bytes] = [4 * payload.byteLength, link.bytes - before];
  assert.equal(wire.takeTraffic(1, "copies").received, said + 4);
  assert.ok(bytes >= said && bytes <= 1.02 * said, `${bytes} for ${said}`);
});

test("a rank of an earlier world, of another job or of another number of ranks is told so", async (t) => {
  for (const [field, other, here] of [
    ["world", 1, 2],
    ["job", "k", "j"],
    ["ranks", 3, 2],
  ] as const) {
    const wire = await opened(t, 2, { own: (rank) => (rank === 1 ? { [field]: other } : { world: field === "world" ? 2 : 1 }) });
    const message = `rank 1 came with ${field} ${other}, rank 0 has ${here}; ranks have to be of one world`;
    await assert.rejects(wire.transport(1).send(0, stamp, frame(0), one), { code: "PlanMismatch", message });
    assert.deepEqual(wire.problems, [`rank 1 was refused: ${message}`]);
  }
});

test("a rank of a later world waits for the other to come to it, and names why when it does not", async (t) => {
  const wire = await opened(t, 2, { limits: { reachMs: 500 }, own: (rank) => ({ world: 1 + rank }) });
  const message = /^rank 0 could not be reached for 500 ms: rank 1 came with world 2, rank 0 has 1/;
  await assert.rejects(wire.transport(1).send(0, stamp, frame(0), one), { code: "RankSilent", message });
  assert.ok(wire.problems.length > 2, "it tries again");
});

test("a certificate of another job, or of another rank than is claimed, gets nothing", async (t) => {
  const other = await opened(t, 2, { limits: { reachMs: 2_000 }, own: (rank) => (rank === 1 ? { tls: strangerTls(1) } : {}) });
  await assert.rejects(other.transport(1).send(0, stamp, frame(0), one), { code: "RankSilent" });
  assert.match(other.problems[0] as string, /its certificate names no pod of this world/);
  await assert.rejects(other.transport(0).send(1, stamp, frame(0), one), { code: "RankSilent", message: /altnames/ });
  const liar = await opened(t, 3, { limits: { reachMs: 20_000 }, own: (rank) => (rank === 1 ? { tls: rankTls(2) } : {}) });
  await assert.rejects(liar.transport(1).send(0, stamp, frame(0), one), { code: "PlanMismatch", message: /came with rank 1/ });
});

test("a rank that is killed is lost at once, one that is silent within its time, and one that never came is named", async (t) => {
  for (const [how, limits, expected] of [
    ["kill", {}, { code: "RankLost", message: /^rank [01] is gone: / }],
    ["silence", { timeoutMs: 600 }, { code: "RankSilent", message: /^rank [01] said nothing for \d{3,4} ms/ }],
  ] as const) {
    const { link, wire } = await linked(t, limits);
    await wire.transport(0).send(1, stamp, frame(0), one);
    const waits = wire.transport(0).receive(1, stamp, wanted(1, 1));
    const begun = performance.now();
    link[how]();
    await assert.rejects(waits, expected);
    assert.ok(performance.now() - begun < 5_000);
  }
  const { link, wire } = await linked(t, { reachMs: 300 });
  link.kill();
  const waits = wire.transport(0).receive(1, stamp, wanted(1, 1));
  await assert.rejects(waits, { code: "RankSilent", message: /^rank 1 could not be reached for 300 ms: / });
});

test("a rank that leaves is there with what it sent, and lost with what it did not", async (t) => {
  const wire = await opened(t, 2, { limits: { reachMs: 5_000 } });
  await wire.transport(1).send(0, stamp, frame(0), new Float32Array(2 * mebi).fill(3));
  const more = wire.transport(0).receive(1, stamp, wanted(1, 1));
  const told = assert.rejects(more, { code: "RankLost", message: /rank 1 has left the world/ });
  await wire.transport(1).close();
  await told;
  assert.equal((await wire.transport(0).receive(1, stamp, wanted(0, 2 * mebi)))[0], 3);
  await assert.rejects(wire.transport(0).send(1, stamp, frame(2), one), { code: "RankLost" });
});

test("senders wait for a rank that falls behind, go on when it asks, and hear of an end meanwhile", async (t) => {
  const wire = await opened(t, 2, { limits: { heldBytes: 2 * chunkBytes } });
  const [from, to] = [wire.transport(0), wire.transport(1)];
  const payload = new Float32Array(mebi);
  let left = 0;
  const sending = (async () => {
    for (let i = 0; i < 48; i++) {
      await from.send(1, stamp, frame(i), payload);
      left++;
    }
  })();
  await until("some have left", () => left > 2);
  await new Promise((resolve) => setTimeout(resolve, 500));
  const waited = left;
  assert.ok(waited < 48, `${waited} left`);
  for (let i = 0; i < 48; i++) await to.receive(0, stamp, wanted(i, mebi));
  await sending;
  const large = assert.rejects(from.send(1, stamp, frame(100), new Float32Array(64 * mebi)), { code: "Cancelled", message: "stopped" });
  await new Promise((resolve) => setTimeout(resolve, 300));
  to.end(new AppError("stopped", { code: "Cancelled" }));
  await large;
});

test("a rank that ends within a payload says so after the chunk that is under way", async (t) => {
  const { link, wire } = await linked(t);
  const [from, to] = [wire.transport(0), wire.transport(1)];
  const payload = new Float32Array(128 * mebi);
  const sending = assert.rejects(from.send(1, stamp, frame(0), payload), { code: "Cancelled", message: "stopped" });
  const waits = assert.rejects(to.receive(0, stamp, wanted(0, payload.length)), { code: "Cancelled", message: "stopped" });
  await until("some have come", () => link.bytes > 4 * chunkBytes);
  from.end(new AppError("stopped", { code: "Cancelled" }));
  await Promise.all([sending, waits]);
  assert.ok(link.bytes < payload.byteLength / 2, `${link.bytes}`);
});

test("what is no payload ends the world by name, and takes no memory that it did not send", async (t) => {
  const head = (bytes: number, at = 0) => encodeChunk({ stamp, name: frame(0), kind: 0, bytes, at });
  const chunk = new Uint8Array(chunkBytes);
  for (const [frames, message] of [
    [[{ head: head(payloadBytesMax + 4), body: chunk }], /^rank 0 was given up: bytes: /],
    [[{ head: head(8), body: none }], /^rank 0 was given up: at: 0 bytes at 0 of 8/],
    [[{ head: head(payloadBytesMax, chunkBytes), body: chunk }], /^rank 0 was given up: at: \d+ of \d+, 0 of/],
    [
      [
        { head: head(payloadBytesMax), body: chunk },
        { head: head(payloadBytesMax), body: chunk },
      ],
      /^rank 0 was given up: at: 0 of \d+, 1048576 of/,
    ],
  ] as const) {
    const wire = await opened(t, 2);
    const waits = assert.rejects(wire.transport(1).receive(0, stamp, wanted(5, 1)), { code: "InvalidFrame", message });
    const { cert, key, ca } = rankTls(0).current();
    const servername = "rank-1.train.default.enodia";
    const socket = connect({ host: "127.0.0.1", port: wire.ports[1] as number, cert, key, ca, servername, ALPNProtocols: [peerAlpn] });
    socket.on("error", () => {});
    socket.resume();
    const sender = toSender({ deploymentUid: "j", rank: 0, podUid: "", bootId: "" });
    const hello = { kind: frameKinds.hello, head: encodeHello({ sender, channel: Channel.TRAINING, world: 1n, ranks: 2 }), body: none };
    const before = process.memoryUsage().arrayBuffers;
    for (const each of [hello, ...frames.map((given) => Object.assign({ kind: frameKinds.payload }, given))])
      for (const piece of encodeFrame(each)) if (piece) socket.write(piece);
    await waits;
    assert.ok(process.memoryUsage().arrayBuffers - before < payloadBytesMax / 4);
    socket.destroy();
  }
});

for (const [bytes, floats, count] of [
  [chunkBytes, mebi, 8],
  [chunkBytes / 16, 0, 200],
] as const)
  test(`a rank is given up when ${count} frames of ${floats} numbers are there, and not the awaited one`, async (t) => {
    const wire = await opened(t, 2, { limits: { heldBytes: bytes } });
    const waits = wire.transport(1).receive(0, stamp, wanted(999, 1));
    const message = /^rank 0 was given up: rank 0 sent \d+ bytes that nobody asked for/;
    const told = assert.rejects(waits, { code: "FrameBacklog", message });
    await Promise.allSettled(Array.from({ length: count }, (_, i) => wire.transport(0).send(1, stamp, frame(i), new Float32Array(floats))));
    await told;
  });
