// Frames of one turn leave a socket in one write, and nothing follows its last words. The socket is replaced by one that counts its writes.
import assert from "node:assert/strict";
import { Duplex } from "node:stream";
import { test } from "node:test";
import type { TLSSocket } from "node:tls";
import { FrameReader, frameKinds, type RawFrame } from "./frame-codec.ts";
import { FrameSocket } from "./frame-socket.ts";

class Counting extends Duplex {
  readonly writes: Buffer[] = [];
  setNoDelay(): void {}
  override _read(): void {}
  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.writes.push(chunk);
    done();
  }
  override _writev(chunks: { chunk: Buffer }[], done: () => void): void {
    this.writes.push(Buffer.concat(chunks.map(({ chunk }) => chunk)));
    done();
  }
}

function opened() {
  const socket = new Counting({ autoDestroy: false });
  const gone: (string | undefined)[] = [];
  const frames = new FrameSocket(socket as unknown as TLSSocket, { frame: () => {}, gone: (reason) => gone.push(reason?.message) });
  return { socket, frames, gone };
}

const frame = (bytes: number): RawFrame => ({ kind: frameKinds.rows, head: new Uint8Array(3), body: new Uint8Array(bytes) });
const turn = () => new Promise((resolve) => setImmediate(resolve));
const bodies = (bytes: Buffer): number[] => {
  const got: number[] = [];
  new FrameReader().push(bytes, ({ body }) => got.push(body.byteLength));
  return got;
};

test("frames of one turn leave in one write, each with word when it has left", async () => {
  const { socket, frames } = opened();
  const left: number[] = [];
  for (const bytes of [4, 100_000, 0]) frames.write(frame(bytes), () => left.push(bytes));
  assert.equal(socket.writes.length, 0);
  await turn();
  assert.deepEqual([socket.writes.map(bodies), left], [[[4, 100_000, 0]], [4, 100_000, 0]]);
  await Promise.all([8, 12].map((bytes) => Promise.resolve().then(() => frames.write(frame(bytes)))));
  await turn();
  assert.deepEqual(socket.writes.slice(1).map(bodies), [[8, 12]]);
});

test("after its last words it says nothing, and hears nothing", async () => {
  const { socket, frames, gone } = opened();
  frames.write(frame(4));
  frames.leave({ kind: frameKinds.end, head: new Uint8Array(0), body: new Uint8Array(0) });
  frames.write(frame(8));
  socket.push(Buffer.alloc(8, 255));
  await turn();
  socket.emit("close");
  assert.deepEqual([socket.writes.flatMap(bodies), gone], [[4, 0], []]);
});
