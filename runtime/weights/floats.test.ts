import assert from "node:assert/strict";
import { test } from "node:test";
import { bytesOf, viewF32 } from "./floats.ts";

test("bytes are read as floats at any alignment, those of a message's Buffer too", () => {
  const floats = Float32Array.of(1.5, -2, 3e-9);
  for (const shift of [0, 1, 4]) {
    const buffer = new Uint8Array(16);
    buffer.set(bytesOf(floats), shift);
    for (const bytes of [buffer, Buffer.from(buffer.buffer)]) assert.deepEqual(viewF32(bytes.subarray(shift, shift + 12)), floats);
  }
});
