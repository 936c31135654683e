// The heads of frames on connections: what is written is read, and noise is refused by its field or read as some frame, never anything else.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { AppError } from "../../crds/common.ts";
import { decodeRowsFrame, decodeSeq, encodeRowsFrame, encodeSeq, rowIndexMax } from "./rows-codec.ts";

const u32 = fc.nat({ max: 0xffffffff });
const index = fc.nat({ max: rowIndexMax });
const gate = fc.float({ noNaN: true });
const pairs = fc.array(fc.tuple(index, index, gate), { minLength: 1, maxLength: 40 });

test("a head is read as it was written, wherever it lies in memory", () => {
  const frames = fc.record({ seq: u32, layer: u32, epoch: fc.nat({ max: Number.MAX_SAFE_INTEGER }), decode: fc.boolean(), pairs });
  fc.assert(
    fc.property(frames, fc.boolean(), fc.nat({ max: 9 }), ({ pairs, ...fields }, summed, shift) => {
      const frame = Object.assign(fields, {
        pairRows: Uint32Array.from(pairs, ([row]) => row),
        pairExperts: Uint32Array.from(pairs, ([, expert]) => expert),
        ...(summed ? { gates: Float32Array.from(pairs, ([, , gate]) => gate) } : {}),
      });
      const head = encodeRowsFrame(frame);
      const moved = new Uint8Array(shift + head.byteLength);
      moved.set(head, shift);
      assert.deepEqual(decodeRowsFrame(moved.subarray(shift)), frame);
      assert.equal(decodeSeq(encodeSeq(frame.seq)), frame.seq);
    }),
  );
});

test("noise, a byte that was changed and a head that was cut are an InvalidFrame or a frame of no more pairs than bytes", () => {
  const frame = { seq: 1, layer: 2, epoch: 3, decode: true, pairRows: Uint32Array.of(0, 1), pairExperts: Uint32Array.of(5, 6) };
  const heads = [encodeRowsFrame(frame), encodeRowsFrame(Object.assign({}, frame, { gates: Float32Array.of(0.5, 0.25) }))];
  const head = fc.constantFrom(...heads);
  const changed = fc.tuple(head, fc.nat(), fc.nat({ max: 255 })).map(([whole, at, byte]) => whole.with(at % whole.length, byte));
  const cut = fc.tuple(head, fc.nat()).map(([whole, length]) => whole.subarray(0, length % whole.length));
  fc.assert(
    fc.property(fc.oneof(fc.uint8Array({ maxLength: 64 }), changed, cut), (head) => {
      try {
        const { pairRows, pairExperts, gates } = decodeRowsFrame(head);
        assert.equal(24 + 2 * (pairRows.length + pairExperts.length) + (gates?.byteLength ?? 0), head.byteLength);
        assert.ok(gates === undefined || gates.length === pairRows.length);
      } catch (caught) {
        assert.ok(caught instanceof AppError && caught.code === "InvalidFrame", String(caught));
      }
    }),
    { numRuns: 500 },
  );
  for (const whole of heads)
    for (let length = 0; length < whole.length; length++) assert.throws(() => decodeRowsFrame(whole.subarray(0, length)), /head|pairs/);
});
