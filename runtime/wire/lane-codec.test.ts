// The heads of frames on lanes: what is written is read, and noise is refused by its field or read as some frame, never anything else.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { AppError } from "../../crds/common.ts";
import { decodeLaneFrame, decodeSeq, encodeLaneFrame, encodeSeq, laneIndexMax } from "./lane-codec.ts";

const u32 = fc.nat({ max: 0xffffffff });
const index = fc.nat({ max: laneIndexMax });
const pairs = fc.array(fc.tuple(index, index), { minLength: 1, maxLength: 40 });

test("a head is read as it was written, wherever it lies in memory", () => {
  const frames = fc.record({ seq: u32, layer: u32, epoch: fc.nat({ max: Number.MAX_SAFE_INTEGER }), decode: fc.boolean(), pairs });
  fc.assert(
    fc.property(frames, fc.nat({ max: 9 }), ({ pairs, ...fields }, shift) => {
      const frame = Object.assign(fields, {
        pairRows: Uint32Array.from(pairs, ([row]) => row),
        pairExperts: Uint32Array.from(pairs, ([, expert]) => expert),
      });
      const head = encodeLaneFrame(frame);
      const moved = new Uint8Array(shift + head.byteLength);
      moved.set(head, shift);
      assert.deepEqual(decodeLaneFrame(moved.subarray(shift)), frame);
      assert.equal(decodeSeq(encodeSeq(frame.seq)), frame.seq);
    }),
  );
});

test("noise, a byte that was changed and a head that was cut are an InvalidFrame or a frame of no more pairs than bytes", () => {
  const whole = encodeLaneFrame({
    ...{ seq: 1, layer: 2, epoch: 3, decode: true },
    ...{ pairRows: Uint32Array.of(0, 1), pairExperts: Uint32Array.of(5, 6) },
  });
  const changed = fc.tuple(fc.nat({ max: whole.length - 1 }), fc.nat({ max: 255 })).map(([at, byte]) => whole.with(at, byte));
  const cut = fc.nat({ max: whole.length - 1 }).map((length) => whole.subarray(0, length));
  fc.assert(
    fc.property(fc.oneof(fc.uint8Array({ maxLength: 64 }), changed, cut), (head) => {
      try {
        const { pairRows, pairExperts } = decodeLaneFrame(head);
        assert.equal(24 + 2 * (pairRows.length + pairExperts.length), head.byteLength);
      } catch (caught) {
        assert.ok(caught instanceof AppError && caught.code === "InvalidFrame", String(caught));
      }
    }),
    { numRuns: 500 },
  );
  for (let length = 0; length < whole.length; length++) assert.throws(() => decodeLaneFrame(whole.subarray(0, length)), /head|pairs/);
});
