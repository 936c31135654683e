// Frames as bytes: whatever frames are written and however their bytes are cut on the way, the same ones are read; and what is no
// frame, or too large, is refused by its first eight bytes.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { encodeFrame, FrameReader, frameBytesMax, frameKinds, headBytesMax, type RawFrame } from "./frame-codec.ts";

const frames = fc.array(
  fc.record({
    kind: fc.constantFrom(...Object.values(frameKinds)),
    head: fc.uint8Array({ maxLength: 40 }),
    body: fc.oneof(
      fc.uint8Array({ maxLength: 40 }),
      fc.nat(70_000).map((bytes) => new Uint8Array(bytes).fill(bytes)),
    ),
  }),
  { maxLength: 6 },
);
const written = (frame: RawFrame): Uint8Array[] => encodeFrame(frame).filter((piece) => piece !== undefined);
const plain = ({ kind, head, body }: RawFrame) => ({ kind, head: [...head], body: Buffer.from(body).toString("base64") });

test("frames are read as they were written, wherever their bytes are cut", () => {
  fc.assert(
    fc.property(frames, fc.array(fc.nat(3_000), { maxLength: 60 }), (list, cuts) => {
      const bytes = Buffer.concat(list.flatMap(written));
      const reader = new FrameReader();
      const got: RawFrame[] = [];
      let at = 0;
      for (const cut of [...cuts, bytes.byteLength]) {
        reader.push(bytes.subarray(at, at + cut), (frame) => got.push(frame));
        at = Math.min(at + cut, bytes.byteLength);
      }
      assert.deepEqual(got.map(plain), list.map(plain));
      assert.equal(reader.within, false);
    }),
    { numRuns: 60 },
  );
});

test("rows begin at a multiple of four, so that they are read where they lie, also when they came in pieces", () => {
  const bytes = Buffer.concat(written({ kind: frameKinds.reply, head: new Uint8Array(13), body: new Uint8Array(4_608) }));
  for (const pieces of [[bytes], [bytes.subarray(0, 5), bytes.subarray(5, 900), bytes.subarray(900)]]) {
    const reader = new FrameReader();
    for (const piece of pieces) reader.push(Buffer.from(new Uint8Array(piece).buffer), ({ body }) => assert.equal(body.byteOffset % 4, 0));
    assert.equal(reader.within, false);
  }
});

/** Eight bytes as they stand before a frame. */
function prefix(follow: number, kind: number, head: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeUInt32LE(follow, 0);
  bytes.writeUInt32LE((head * 256 + kind) >>> 0, 4);
  return bytes;
}

const refused: Readonly<Record<string, { readonly bytes: Buffer; readonly why: RegExp }>> = {
  "rows above the limit": { bytes: prefix(4 + frameBytesMax + 4, 1, 0), why: /rows of 8388612 bytes, more than 8388608/ },
  "a head above the limit": { bytes: prefix(4 + headBytesMax + 4, 1, headBytesMax + 1), why: /head of 1048577 bytes, more than/ },
  "a head that is longer than its frame": { bytes: prefix(8, 1, 9), why: /a frame of 12 bytes with a head of 9/ },
  "no room for its own kind": { bytes: prefix(0, 1, 0), why: /a frame of 4 bytes/ },
  "a kind that is none": { bytes: prefix(4, 12, 0), why: /kind 12/ },
  "the largest number": { bytes: Buffer.alloc(8, 255), why: /kind 255/ },
};
for (const [name, { bytes, why }] of Object.entries(refused)) {
  test(`${name} is refused by the first eight bytes, also when they come one by one`, () => {
    const expected = (error: unknown) =>
      error instanceof Error && why.test(error.message) && "code" in error && error.code === "InvalidFrame";
    assert.throws(() => new FrameReader().push(bytes, () => assert.fail("a frame")), expected);
    const reader = new FrameReader();
    for (const byte of bytes.subarray(0, 7)) reader.push(Buffer.of(byte), () => assert.fail("a frame"));
    assert.throws(() => reader.push(bytes.subarray(7), () => assert.fail("a frame")), expected);
  });
}

test("bytes that follow nothing sensible cost no memory, and never a frame beyond its limits", () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 8, maxLength: 400 }), (bytes) => {
      const reader = new FrameReader();
      try {
        reader.push(Buffer.from(bytes), ({ head, body }) => assert.ok(head.byteLength <= headBytesMax && body.byteLength <= frameBytesMax));
      } catch (error) {
        assert.equal((error as { code?: string }).code, "InvalidFrame");
      }
    }),
    { numRuns: 500 },
  );
});

test("a frame that the other end would refuse is not written", () => {
  const [head, body] = [new Uint8Array(0), new Uint8Array(0)];
  const fault = { code: "MessageTooLarge" };
  assert.throws(() => encodeFrame({ kind: frameKinds.rows, head, body: new Uint8Array(frameBytesMax + 4) }), fault);
  assert.throws(() => encodeFrame({ kind: frameKinds.rows, head: new Uint8Array(headBytesMax + 1), body }), fault);
});
