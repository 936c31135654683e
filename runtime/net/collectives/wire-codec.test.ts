// Heads of frames of training come back as they were written, and what is none is refused by the field, whatever its bytes say.
import assert from "node:assert/strict";
import { test } from "node:test";
import { AppError } from "../../../crds/common.ts";
import { type ChunkHead, chunkBytes, decodeChunk, encodeChunk, payloadBytesMax } from "./wire-codec.ts";

const chunk: ChunkHead = {
  stamp: { world: 3, step: 2 ** 40, plan: "0123456789abcdef" },
  name: { what: "dense sums", layer: -1, chunk: 7, piece: 2 ** 30 },
  kind: 1,
  bytes: 2 * chunkBytes + 8,
  at: 2 * chunkBytes,
};

test("heads come back as they were written", () => {
  assert.deepEqual(decodeChunk(encodeChunk(chunk), 8), chunk);
  const empty = { ...chunk, name: { ...chunk.name, what: "" }, bytes: 0, at: 0 };
  assert.deepEqual(decodeChunk(encodeChunk(empty), 0), empty);
});

test("a head that says more than may be, or other bytes than came, is refused by the field", () => {
  for (const [change, field] of [
    [{ kind: 3 }, "kind"],
    [{ bytes: payloadBytesMax + 8 }, "bytes"],
    [{ bytes: 2 * chunkBytes + 9 }, "bytes"],
    [{ bytes: -8 }, "number -8"],
    [{ bytes: 0.5 }, "number 0.5"],
    [{ at: 8 }, "at"],
    [{ at: 3 * chunkBytes }, "at"],
    [{ at: 0 }, "at"],
  ] as const)
    assert.throws(() => decodeChunk(encodeChunk({ ...chunk, ...change }), 8), { code: "InvalidFrame", message: new RegExp(field) });
  assert.throws(() => decodeChunk(encodeChunk(chunk), 0), { code: "InvalidFrame", message: /^at: 0 bytes/ });
});

test("of changed and cut heads none throws anything but InvalidFrame", () => {
  let refused = 0;
  let state = 12_345;
  const random = (below: number): number => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  for (let i = 0; i < 2_000; i++) {
    const head = encodeChunk(chunk).slice(0, i % 2 === 0 ? undefined : random(80));
    for (let change = 0; change < 3 && head.length > 0; change++) head[random(head.length)] = random(256);
    try {
      decodeChunk(head, 8);
    } catch (caught) {
      assert.ok(caught instanceof AppError && caught.code === "InvalidFrame", String(caught));
      refused++;
    }
  }
  assert.ok(refused > 1_000, `${refused}`);
});
