// The protocol that all channels share: versions, hello and welcome, heartbeats, ends, and heads that are none.
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { AppError } from "../../crds/common.ts";
import { createTestCa } from "../../test/kit/network/certs.ts";
import { until } from "../../test/kit/ranks/ranks.ts";
import { FailureDetector, peerLimits } from "./failure-detector.ts";
import { frameKinds } from "./frame-codec.ts";
import { Channel, type Hello } from "./gen/enodia/runtime/v1/runtime_pb.js";
import { createTlsListener } from "./listener.ts";
import { toSender } from "./mapping.ts";
import { decodeEnd, decodeHello, encodeEnd, encodeHello, type HostEvents, none, PeerConnection, peerAlpn } from "./peer-connection.ts";

const ca = createTestCa();
const [hostTls, callerTls] = [ca.issue("rank-0", "default", "mix"), ca.issue("rank-1", "default", "mix")];
const sender = toSender({ deploymentUid: "8d7f3a50", rank: 65_535, podUid: "u", bootId: "b" });
const hello = { sender, channel: Channel.ENGINE, hidden: 64, sums: "f16", world: 2n, ranks: 3 };
const detector = () => new FailureDetector(peerLimits, performance.now());

async function pair(t: TestContext, answer: HostEvents["hello"], protocol = peerAlpn) {
  const said: string[] = [];
  let host: PeerConnection | undefined;
  const listener = createTlsListener(hostTls, {
    [protocol]: (socket) => {
      host = PeerConnection.answer(socket, detector(), {
        hello: answer,
        frame: ({ kind, body }) => void said.push(`host: ${kind} ${[...body]}`),
        ended: ({ code, message }) => void said.push(`host: ${code} ${message}`),
        gone: (reason) => void said.push(`host: ${reason?.code ?? "gone"}`),
      });
    },
  });
  const port = await listener.listen("127.0.0.1", 0);
  const target = { address: `127.0.0.1:${port}`, serverName: "rank-0.mix.default.enodia", tls: callerTls };
  const caller = PeerConnection.call(target, hello, detector(), {
    connected: () => void said.push("connected"),
    welcome: ({ sums }) => void said.push(`welcome ${sums}`),
    frame: ({ kind, body }) => void said.push(`caller: ${kind} ${[...body]}`),
    ended: ({ code, message }) => void said.push(`caller: ${code} ${message}`),
    gone: (reason) => void said.push(`caller: ${reason?.code ?? "gone"}`),
  });
  t.after(() => {
    caller.destroy();
    void listener.stop();
    listener.cut();
  });
  return { caller, said, host: () => host as PeerConnection, has: (words: string) => until(words, () => said.includes(words)) };
}

test("a host hears who calls, welcomes, answers heartbeats, and each end hears why the other leaves", async (t) => {
  let heard: Hello | undefined;
  const { caller, host, said, has } = await pair(t, (hello) => {
    heard = hello;
    return { sums: "f16" };
  });
  await has("welcome f16");
  assert.deepEqual([said[0], heard], ["connected", decodeHello(encodeHello(hello))]);
  caller.detector.connect(performance.now());
  caller.ping();
  await until("the ping is answered", () => caller.detector.wasHeard);
  caller.write(frameKinds.rows, none, Uint8Array.of(1, 2));
  await has(`host: ${frameKinds.rows} 1,2`);
  host().write(frameKinds.reply, none, Uint8Array.of(3));
  await has(`caller: ${frameKinds.reply} 3`);
  caller.end({ code: "RankLeft", message: "done" });
  await has("host: RankLeft done");
});

test("a caller that is refused hears why; one that begins with anything else hears nothing", async (t) => {
  const refused = await pair(t, () => new AppError("another world", { code: "PlanMismatch" }));
  await refused.has("caller: PlanMismatch another world");
  const thrown = await pair(t, () => {
    throw new AppError("no hello", { code: "InvalidFrame" });
  });
  await thrown.has("host: InvalidFrame");
  await until("the caller is cut", () => thrown.said.some((words) => /^caller: (gone|Unavailable)$/.test(words)));
});

test("ends of another version refuse each other before a frame", async (t) => {
  const { said, has } = await pair(t, () => ({}), "enodia/2");
  await has("caller: Unavailable");
  assert.deepEqual(said, ["caller: Unavailable"]);
});

test("heads that are none are refused as such", () => {
  const why = { code: "PlanMismatch", message: "rank 1 – of another plan" };
  assert.deepEqual(decodeEnd(encodeEnd(why)), why);
  assert.equal(decodeEnd(encodeEnd({ code: "Internal", message: "x".repeat(5_000) })).message.length, 1_024);
  for (const head of [Uint8Array.of(255, 255, 255, 255), encodeHello(hello).subarray(0, 3)])
    assert.throws(() => decodeHello(head), { code: "InvalidFrame" });
  for (const head of [Uint8Array.of(255, 255, 255, 255), none, encodeEnd({ code: "no code", message: "" })])
    assert.throws(() => decodeEnd(head), { code: "InvalidFrame" });
});
