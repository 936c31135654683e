import assert from "node:assert/strict";
import { test } from "node:test";
import { decodeTelemetryKeys, encodeTelemetryKeys, rotatedTelemetryKeys, type TelemetryKey } from "./telemetry-keys.ts";

const dayMs = 86_400_000;
const start = Date.parse("2026-03-01T00:00:00Z");
let made = 0;
const key = (madeMs: number): TelemetryKey => {
  made += 1;
  return { id: made.toString(16).padStart(16, "0"), secret: new Uint8Array(32).fill(made), madeMs };
};
const ids = (keys: readonly TelemetryKey[]) => keys.map(({ id }) => id);

test("keys are the same after writing and reading", () => {
  const keys = [key(start + 5), key(start)];
  assert.deepEqual(decodeTelemetryKeys(encodeTelemetryKeys(keys)), keys);
});

const refused: Record<string, string> = {
  "no JSON": "s3cret",
  "no key": JSON.stringify({ keys: [] }),
  "a short key": JSON.stringify({ keys: [{ id: "0".repeat(16), made: "2026-03-01T00:00:00.000Z", secret: "c2VjcmV0" }] }),
};
for (const [name, text] of Object.entries(refused)) {
  test(`${name} is refused, and what is said of it does not quote it`, () => {
    assert.throws(
      () => decodeTelemetryKeys(text),
      (error: any) => error.code === "TelemetryKeysUnusable" && !/s3cret|c2VjcmV0/.test(error.message),
    );
  });
}

test("a key is followed after 30 days, and taken for a day longer, so that a pod whose Secret lags is heard", () => {
  const fresh = (now: number) => rotatedTelemetryKeys([], now, () => key(now));
  const first = fresh(start);
  const standing = (keys: readonly TelemetryKey[], day: number) => {
    return rotatedTelemetryKeys(keys, start + day * dayMs, () => key(start + day * dayMs));
  };
  assert.deepEqual(standing(first, 29), first);
  const both = standing(first, 30);
  assert.equal(both.length, 2);
  assert.deepEqual(ids(both).at(1), ids(first).at(0), "the older one is still taken");
  assert.deepEqual(standing(both, 30.5), both);
  assert.deepEqual(ids(standing(both, 31.1)), ids(both).slice(0, 1));
});

test("a key that a wrong clock has made far ahead is followed at once", () => {
  const ahead = key(start + 400 * dayMs);
  const keys = rotatedTelemetryKeys([ahead], start, () => key(start));
  assert.deepEqual(ids(keys).at(1), ahead.id);
  assert.equal(keys[0]?.madeMs, start);
});
