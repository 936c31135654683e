// The frames of one stream in bulk: their bytes are bounded until the answers have left, and no answer is computed that is too large to
// send. The stream is replaced by one whose reader takes answers when it is told to.
import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { test } from "node:test";
import type { AppError } from "../../../crds/common.ts";
import { frameBytesMax, streamBytesMax } from "../../net/frame-codec.ts";
import { DispatchFrameSchema, type DispatchReply } from "../../net/gen/enodia/runtime/v1/runtime_pb.js";
import { grpcNetwork } from "../../net/grpc.ts";
import { create } from "../../net/service.ts";
import type { TlsSource } from "../../net/tls.ts";
import { silentLog } from "../../observe/log.ts";
import { createTracing } from "../../observe/trace.ts";
import { Peers } from "../peers.ts";
import type { FrameRunner } from "./serve-frame.ts";
import { createDispatchServer } from "./server.ts";

const hidden = 1_024;
const rowBytes = hidden * 4;

class ServedStream extends EventEmitter {
  readonly replies: DispatchReply[] = [];
  readonly #unread: (() => void)[] = [];
  readonly failed: string[] = [];
  reads = true;
  over = false;

  write(reply: DispatchReply, sent: () => void): void {
    this.replies.push(reply);
    if (this.reads) sent();
    else this.#unread.push(sent);
  }
  fail(error: AppError): void {
    this.over = true;
    this.failed.push(error.message);
  }
  read(): void {
    for (const sent of this.#unread.splice(0)) sent();
  }
  answers(): (string | undefined)[] {
    return this.replies.map(({ result }) => result.case);
  }
}

async function served() {
  const self = { deploymentUid: "d", rank: 0, podUid: "u0", bootId: "b0" };
  const peers = new Peers({ self, namespace: "n", name: "m", tls: {} as TlsSource, network: grpcNetwork, log: silentLog });
  const running: { readonly pairs: number; finish(): void }[] = [];
  const run: FrameRunner["run"] = ({ origin }, { pairExperts }) => {
    assert.equal(origin, "remote");
    return new Promise((resolve) => running.push({ pairs: pairExperts.length, finish: () => resolve(new Float32Array(hidden)) }));
  };
  const server = createDispatchServer({
    ...{ peers, log: silentLog, report: () => {}, tracing: await createTracing({ service: "worker" }) },
    runner: { run, runOnDemand: run } as unknown as FrameRunner,
    model: { layers: 1, experts: 8, hidden },
    enginePort: () => 0,
    plan: { epoch: 1, serves: () => true, current: () => ({ epoch: 1 }) },
    caller: () => ({ role: "worker", rank: 1, podName: "p1" }),
  });
  const open = (): ServedStream => {
    const opened = new ServedStream();
    server(opened as unknown as Parameters<typeof server>[0]);
    return opened;
  };
  const stream = open();
  let seq = 0n;
  const send = async (rows: number, pairs = rows, to = stream): Promise<void> => {
    const frame = { hidden, rows: new Uint8Array(rows * rowBytes), layerEpoch: 1n, seq: ++seq };
    const indices = Array.from({ length: pairs }, (_, i) => i % Math.max(1, rows));
    const sender = { $typeName: "enodia.runtime.v1.Sender", deploymentUid: "d", rank: 1, podUid: "u1", bootId: "b1" } as const;
    to.emit("data", create(DispatchFrameSchema, { ...frame, sender, pairRows: indices, pairExperts: indices.map(() => 0) }));
    await settled();
  };
  return { stream, running, send, open };
}

const settled = () => new Promise((resolve) => setImmediate(resolve));
const rowsOfLargest = frameBytesMax / rowBytes;
/** Frames of the largest size, with their answers, that a stream holds. */
const frames = (1.5 * streamBytesMax) / (2 * frameBytesMax);
/** The same of all streams. */
const framesOfAll = (2 * streamBytesMax) / (2 * frameBytesMax);

test("frames beyond the bytes of a stream are told to come back, until others are answered", async () => {
  const { stream, running, send } = await served();
  for (let i = 0; i < frames + 3; i++) await send(rowsOfLargest);
  assert.equal(running.length, frames);
  assert.deepEqual(stream.answers(), ["busy", "busy", "busy"]);
  running[0]?.finish();
  await settled();
  await send(rowsOfLargest);
  assert.equal(running.length, frames + 1);
});

test("an answer that has not left counts, and a ping is answered all the same", async () => {
  const { stream, running, send } = await served();
  stream.reads = false;
  for (let i = 0; i < frames; i++) {
    await send(rowsOfLargest);
    running[i]?.finish();
    await settled();
  }
  await send(rowsOfLargest);
  await send(0);
  assert.deepEqual(stream.answers().slice(frames), ["busy", "rows"]);
  stream.read();
  await send(rowsOfLargest);
  assert.equal(running.length, frames + 1);
});

test("streams share the bytes that a rank holds, of which each may always have one frame, and one that is gone gives its part back", async () => {
  const { stream, running, send, open } = await served();
  const [second, third] = [open(), open()];
  for (const each of [stream, second]) for (let i = 0; i < frames; i++) await send(rowsOfLargest, rowsOfLargest, each);
  await send(rowsOfLargest, rowsOfLargest, third);
  await send(rowsOfLargest, rowsOfLargest, third);
  assert.equal(running.length, framesOfAll + 1);
  assert.deepEqual(third.answers(), ["busy"]);
  stream.over = true;
  for (const { finish } of running) finish();
  await settled();
  for (let i = 0; i < frames; i++) await send(rowsOfLargest, rowsOfLargest, third);
  assert.equal(running.length, framesOfAll + 1 + frames);
});

test("a stream whose reader takes no answer at all ends", async () => {
  const { stream, send } = await served();
  stream.reads = false;
  for (let i = 0; i < 1_100; i++) await send(0);
  assert.equal(stream.replies.length, 1_024);
  assert.deepEqual(stream.failed, ["the peer reads no answers"]);
});

test("a frame whose answer would be too large is refused before anything is computed", async () => {
  const { stream, running, send } = await served();
  const pairs = rowsOfLargest + 1;
  await send(rowsOfLargest / 4, pairs);
  assert.equal(running.length, 0);
  const result = stream.replies[0]?.result;
  assert.equal(result?.case, "rejected");
  assert.match(result.value.reason, /pair_rows: the answer to 2049 pairs has 8392704 bytes, more than 8388608/);
});
