import assert from "node:assert/strict";
import { test } from "node:test";
import { decodeLoad, encodeLoad, type LoadWindow, loadHead } from "./telemetry.ts";

const window: LoadWindow = {
  ...{ v: 1, deploymentUID: "u", rank: 3, bootId: "b", seq: 7, windowStart: 1, windowEnd: 2, phase: "decode", layers: 2, experts: 2 },
  routed: Uint32Array.of(1, 2, 3, 4_000_000_000),
  served: Uint32Array.of(4, 3, 2, 1),
};
const compute = {
  runs: 30,
  calls: 41,
  rows: 99,
  micros: 2_500,
  squares: [9, 12, 21, 30.5, 40, 72],
  times: [700, 900, 2100.25],
  machine: "m",
};
const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const changed = (fields: object): Uint8Array => bytes(JSON.stringify({ ...JSON.parse(encodeLoad(window)), ...fields }));

test("a load message is the same after writing and reading, with and without times and compute", () => {
  const seconds = { dense: 1.25, experts: 0 };
  assert.deepEqual(decodeLoad(bytes(encodeLoad({ ...window, seconds }))), { ...window, seconds });
  assert.deepEqual(decodeLoad(bytes(encodeLoad({ ...window, compute }))), { ...window, compute });
  const misses = { loads: 3, bytes: 3_000_000, micros: 4_500 };
  assert.deepEqual(decodeLoad(bytes(encodeLoad({ ...window, misses }))), { ...window, misses });
  assert.throws(() => decodeLoad(changed({ misses: { ...misses, bytes: -1 } })), { code: "InvalidTelemetry" });
  assert.deepEqual(decodeLoad(bytes(encodeLoad(window))), window);
});

test("who sent a message is read from its first bytes, and nothing from a text that says otherwise", () => {
  const { rank, bootId, seq } = window;
  assert.deepEqual(loadHead(bytes(encodeLoad(window))), { rank, bootId, seq });
  const others = [
    { bootId: 'b","seq":1,"x":"' },
    { deploymentUID: 'u","rank":1,"bootId":"b"' },
    { seq: 2 ** 53 - 1 },
    { v: 2 },
    { rank: 12_345 },
  ];
  for (const change of others) assert.equal(loadHead(changed(change)), undefined, JSON.stringify(change));
  assert.equal(loadHead(new Uint8Array(0)), undefined);
});

test("a field of a later version is ignored", () => {
  assert.deepEqual(decodeLoad(changed({ later: 1, compute: { ...compute, watts: 3 } })), { ...window, compute });
});

const pairs = (...values: number[]): string => Buffer.from(Uint32Array.from(values).buffer).toString("base64");
const refused: Record<string, [object, RegExp]> = {
  "time that runs backwards": [{ seconds: { dense: -1, experts: 1 } }, /seconds\.dense/],
  "a negative time": [{ compute: { ...compute, micros: -1 } }, /compute\.micros/],
  "more time than there is": [{ compute: { ...compute, micros: 2 ** 41 } }, /compute\.micros/],
  "too few sums": [{ compute: { ...compute, squares: [1, 2, 3] } }, /compute\.squares/],
  "half a batch": [{ compute: { ...compute, runs: 0.5 } }, /compute\.runs/],
  "counts of another length": [{ routed: pairs(1, 2, 3) }, /routed: 12 bytes, expected 16/],
};
for (const [name, [fields, message]] of Object.entries(refused)) {
  test(`a message with ${name} is refused by name`, () => {
    assert.throws(() => decodeLoad(changed(fields)), { code: "InvalidTelemetry", message });
  });
}
