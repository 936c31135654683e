// Rows as halves: each comes back within the error that is stated, whatever its size, and what is no number stays none.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { decodeHalfRows, encodeHalfRows, halfRowBytes } from "./rows-codec.ts";

const back = (data: Float32Array, width: number): Float32Array => decodeHalfRows(encodeHalfRows(data, width), width);

test("values of any size come back within 2^-11 of themselves or 2^-39 of the largest, where a row may be a subnormal", () => {
  const value = fc.oneof(
    fc.float({ noNaN: true, noDefaultInfinity: true }),
    fc.float({ min: -4, max: 4, noNaN: true }),
    fc.constant(2 ** -149),
  );
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 9 }), fc.array(value, { minLength: 1, maxLength: 60 }), (width, values) => {
      const data = Float32Array.from(values.slice(0, values.length - (values.length % width)));
      const got = back(data, width);
      assert.equal(got.length, data.length);
      for (let i = 0; i < data.length; i++) {
        const row = data.subarray(i - (i % width), i - (i % width) + width);
        const largest = row.reduce((most, each) => Math.max(most, Math.abs(each)), 0);
        const size = Math.abs(data[i] as number);
        const bound = Math.max(size * 2 ** -11, largest * 2 ** -39, 2 ** -150);
        // Half a step below 2^128 is no f32 any more.
        if (size < 2 ** 128 - 2 ** 116) assert.ok(Math.abs((got[i] as number) - (data[i] as number)) <= bound, `${got[i]} for ${data[i]}`);
      }
    }),
    { numRuns: 500 },
  );
});

test("a value becomes the nearest half, of two as near the even one", () => {
  const step = 2 ** -10;
  const cases: readonly (readonly [number, number])[] = [
    ...([
      [1 + step / 2, 1],
      [1 + 1.5 * step, 1 + 2 * step],
      [1 + 0.51 * step, 1 + step],
      [-1 - step / 2, -1],
      [1.999_9, 2],
    ] as const),
  ];
  for (const [value, want] of cases) assert.equal(back(Float32Array.of(value), 1)[0], want);
});

test("all halves come back as they were, and so do zeros, infinite values and NaN beside others", () => {
  const halves = new Float16Array(Uint16Array.from({ length: 65_536 }, (_, bits) => bits).buffer);
  const below = Float32Array.from(halves).filter((value) => Math.abs(value) < 2 ** 15); // larger ones would be halved, with a bit less below
  assert.deepEqual(back(below, below.length), below);
  const others = Float32Array.of(0, -0, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NaN, 0.25);
  for (const width of [1, 2, 3, 6]) assert.deepEqual(back(others, width), others);
});

test("rows are read wherever they lie, and what is cut has the whole ones only", () => {
  const data = Float32Array.from({ length: 12 }, (_, i) => i - 5);
  const bytes = encodeHalfRows(data, 4);
  assert.equal(bytes.byteLength, 3 * halfRowBytes(4));
  for (const shift of [0, 1, 2, 4]) {
    const moved = new Uint8Array(shift + bytes.byteLength);
    moved.set(bytes, shift);
    assert.deepEqual(decodeHalfRows(moved.subarray(shift), 4), data);
    assert.deepEqual(decodeHalfRows(Buffer.from(moved.buffer).subarray(shift), 4), data);
  }
  for (let length = 0; length < bytes.byteLength; length++)
    assert.equal(decodeHalfRows(bytes.subarray(0, length), 4).length, 4 * Math.floor(length / halfRowBytes(4)));
});
