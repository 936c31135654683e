// The stream of one rank to another: bytes under way are bounded, in order, and never in the way of a ping; and a host's silence is
// known, with frames and without. The wire is replaced, and time where it matters.
import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { after, type TestContext, test } from "node:test";
import { AppError } from "../../../crds/common.ts";
import { frameBytesMax, streamBytesMax } from "../../net/frame-codec.ts";
import { type DispatchFrame, type DispatchReply, DispatchReplySchema } from "../../net/gen/enodia/runtime/v1/runtime_pb.js";
import { create } from "../../net/service.ts";
import type { PeerClients } from "../peers.ts";
import { PeerStream } from "./peer-stream.ts";

const hidden = 1_024;
const rows = frameBytesMax / (hidden * 4);
/** A frame of the largest size, whose answer is as large. */
const largest = { hidden, rows: new Uint8Array(frameBytesMax), pairExperts: new Array<number>(rows).fill(0) };
const atOnce = streamBytesMax / (2 * frameBytesMax);

function opened(onClose: (reason: AppError) => void = () => {}) {
  const sent: DispatchFrame[] = [];
  const call = Object.assign(new EventEmitter(), { sent, takes: true, write: (_: DispatchFrame): boolean => true, cancel: () => {} });
  call.write = (frame) => {
    call.sent.push(frame);
    return call.takes;
  };
  const clients = { experts: { dispatch: () => call } } as unknown as PeerClients;
  const sender = { $typeName: "enodia.runtime.v1.Sender", deploymentUid: "d", rank: 0, podUid: "u", bootId: "b" } as const;
  const stream = new PeerStream(1, clients, sender, { onClose });
  const answer = (seq: bigint) =>
    call.emit("data", create(DispatchReplySchema, { seq, result: { case: "rows", value: new Uint8Array(0) } }));
  return { stream, call, answer };
}

test("a frame beyond the bytes of a stream waits for the answers to others, and frames keep their order", async () => {
  const { stream, call, answer } = opened();
  const got: bigint[] = [];
  const send = (frame: typeof largest) => stream.send(frame, 60_000).then(({ seq }: DispatchReply) => got.push(seq));
  const all = Array.from({ length: atOnce + 1 }, () => send(largest));
  const small = { hidden, rows: new Uint8Array(hidden * 4), pairExperts: [0] };
  all.push(send(small));
  assert.equal(call.sent.length, atOnce);
  void stream.ping().catch(() => undefined);
  assert.equal(call.sent.length, atOnce + 1, "a ping does not wait");
  answer(1n);
  assert.deepEqual(
    call.sent.slice(atOnce + 1).map((frame) => frame.rows.byteLength),
    [frameBytesMax],
  );
  answer(2n);
  assert.equal(call.sent.at(-1)?.rows.byteLength, small.rows.byteLength);
  for (const { seq } of [...call.sent]) answer(seq);
  await Promise.all(all);
  assert.equal(got.length, atOnce + 2);
  assert.equal(stream.inFlight, 0);
  stream.close(new AppError("done", { code: "Cancelled" }));
});

test("while the socket is full frames wait here, where a ping overtakes them", () => {
  const { stream, call, answer } = opened();
  const small = { hidden, rows: new Uint8Array(hidden * 4), pairExperts: [0] };
  const send = () => void stream.send(small, 60_000).catch(() => undefined);
  const sizes = () => call.sent.map((frame) => frame.rows.byteLength / small.rows.byteLength);
  call.takes = false;
  for (let i = 0; i < 3; i++) send();
  answer(1n);
  void stream.ping().catch(() => undefined);
  assert.deepEqual(sizes(), [1, 0], "an answer makes no room in a socket");
  call.takes = true;
  call.emit("drain");
  assert.deepEqual(sizes(), [1, 0, 1, 1]);
  stream.close(new AppError("done", { code: "Cancelled" }));
});

// The watch of a stream keeps no process alive; the tests' own timer does.
const alive = setInterval(() => {}, 1_000);
after(() => clearInterval(alive));

test("a frame that waits for room has the time that it was given, and ends with its stream", async () => {
  const { stream, call, answer } = opened();
  const sent = Array.from({ length: atOnce }, () => stream.send(largest, 60_000).catch((error: AppError) => error.code));
  await assert.rejects(stream.send(largest, 1), { code: "DeadlineExceeded" });
  assert.equal(call.sent.filter(({ pairExperts }) => pairExperts.length > 0).length, atOnce, "it was never sent");
  const last = assert.rejects(stream.send(largest, 60_000), { code: "Cancelled" });
  answer(0n);
  stream.close(new AppError("done", { code: "Cancelled" }));
  await last;
  assert.deepEqual(await Promise.all(sent), new Array(atOnce).fill("Cancelled"));
});

/** Time that passes in small steps, or in one. */
function ownTime(t: TestContext) {
  let now = 1_000;
  t.mock.timers.enable({ apis: ["setInterval"] });
  t.mock.method(performance, "now", () => now);
  return {
    pass: (ms: number, stepMs = 50) => {
      for (const end = now + ms; now < end; ) {
        now += stepMs;
        t.mock.timers.tick(stepMs);
      }
    },
    /** The process stands still: its timers fire once, late. */
    stall: (ms: number) => {
      now += ms;
      t.mock.timers.tick(250);
    },
  };
}

for (const frames of [0, 1]) {
  test(`a host that falls silent with ${frames} frames under way is known within 2 s`, async (t) => {
    const { pass } = ownTime(t);
    const closed: string[] = [];
    const { stream, call, answer } = opened(({ code }) => closed.push(code));
    const answerPings = (): void => {
      for (const { seq, pairExperts } of call.sent) if (pairExperts.length === 0) answer(seq);
    };
    for (let i = 0; i < 40; i++) {
      pass(250);
      answerPings();
    }
    assert.deepEqual(closed, [], "it answers when it is asked");
    const sent = Array.from({ length: frames }, () => stream.send(largest, 60_000).catch(({ code }: AppError) => code));
    pass(1_000);
    assert.deepEqual(closed, []);
    pass(1_000);
    assert.deepEqual(closed, ["Silent"]);
    assert.deepEqual(await Promise.all(sent), new Array(frames).fill("Silent"));
  });
}

test("what this process did not hear while it stood still is no silence of the host", (t) => {
  const { pass, stall } = ownTime(t);
  const closed: string[] = [];
  const { stream, call, answer } = opened(({ code }) => closed.push(code));
  pass(600);
  stall(9_000);
  for (const { seq } of call.sent) answer(seq);
  assert.deepEqual(closed, []);
  stream.close(new AppError("done", { code: "Cancelled" }));
});
