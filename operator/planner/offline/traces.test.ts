import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import fc from "fast-check";
import { decodeTrace, encodeTrace, sizeText, windowOf } from "./traces.ts";
import { generateTrace, presets } from "./traces-generate.ts";

const model = { ...presets.mixtral_32x8, layers: 3, windows: 4 };

test("a trace is the same after writing and reading", async () => {
  const trace = generateTrace("t", model, 1);
  assert.deepEqual(await decodeTrace(await encodeTrace(trace)), trace);
});

const unlike = { name: "u", windows: 2, layers: 3, experts: 3, layerExperts: [0, 3, 2] };
const unlikeCounts = Uint32Array.of(0, 0, 0, 5, 4, 3, 2, 1, 0, 0, 0, 0, 6, 5, 4, 3, 2, 0);

test("a trace of layers with unlike numbers of experts says so, and no layer has selections of experts that it lacks", async () => {
  assert.deepEqual(await decodeTrace(await encodeTrace({ ...unlike, counts: unlikeCounts })), { ...unlike, counts: unlikeCounts });
  const even = await decodeTrace(await encodeTrace({ ...unlike, layerExperts: [3, 3, 3], counts: unlikeCounts }));
  assert.deepEqual(
    [even.layerExperts, sizeText(even), sizeText(unlike)],
    [undefined, "3 layers x 3 experts", "3 layers of 0 to 3 experts"],
  );
  const wrong: [Partial<typeof unlike>, RegExp][] = [
    [{ layerExperts: [0, 3] }, /layerExperts: 2 layers of up to 3 experts, not 3 of up to 3/],
    [{ layerExperts: [0, 2, 2] }, /layerExperts: 3 layers of up to 2 experts/],
    [{ layerExperts: [0, 3, 1] }, /counts: layer 2 has 1 experts, and expert 1 was chosen/],
  ];
  for (const [change, message] of wrong)
    await assert.rejects(decodeTrace(await encodeTrace({ ...unlike, ...change, counts: unlikeCounts })), { code: "InvalidTrace", message });
});

test("plain JSON is read as well as gzip", async () => {
  const counts = Buffer.from(Uint32Array.of(1, 2, 3, 4).buffer).toString("base64");
  const text = JSON.stringify({ name: "x", windows: 1, layers: 2, experts: 2, counts });
  const wanted = { name: "x", windows: 1, layers: 2, experts: 2, counts: Uint32Array.of(1, 2, 3, 4) };
  assert.deepEqual(await decodeTrace(Buffer.from(text)), wanted);
  assert.deepEqual(await decodeTrace(gzipSync(text)), wanted);
});

test("a trace that a script of another language made is read, index by index", async () => {
  const trace = await decodeTrace(readFileSync(join(import.meta.dirname, "testdata/small.json.gz")));
  const { counts, ...sizes } = trace;
  assert.deepEqual(sizes, { name: "small", windows: 3, layers: 2, experts: 4 });
  for (let w = 0; w < 3; w++)
    for (let l = 0; l < 2; l++)
      for (let e = 0; e < 4; e++) assert.equal(windowOf(trace, w)[l * 4 + e], 100 * w + 10 * l + e, `window ${w}, layer ${l}, expert ${e}`);
  assert.equal(counts.length, 24);
});

test("what is wrong with a trace is named", async () => {
  const cases: Record<string, [Uint8Array, RegExp]> = {
    "not JSON": [Buffer.from("hello"), /neither JSON nor gzip/],
    "cut gzip": [gzipSync("{}".repeat(1000)).subarray(0, 15), /damaged or cut off/],
    "missing field": [Buffer.from('{"name":"x"}'), /windows/],
    "wrong length": [Buffer.from('{"name":"x","windows":1,"layers":1,"experts":2,"counts":"AAAA"}'), /counts: 3 bytes, expected 8/],
    "too large": [Buffer.from('{"name":"x","windows":1000000,"layers":1000,"experts":4000,"counts":""}'), /at most/],
  };
  for (const [name, [bytes, message]] of Object.entries(cases))
    await assert.rejects(decodeTrace(bytes), { code: "InvalidTrace", message }, name);
});

test("arbitrary bytes are refused, never a crash", async () => {
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 200 }), async (bytes) => {
      await assert.rejects(decodeTrace(bytes), { code: "InvalidTrace" });
    }),
    { numRuns: 200 },
  );
});

test("the same seed gives the same trace, every window has all selections, and neighbours resemble each other", () => {
  const trace = generateTrace("t", model, 7);
  assert.deepEqual(generateTrace("t", model, 7), trace);
  assert.notDeepEqual(generateTrace("t", model, 8).counts, trace.counts);
  const layer = (t: number): Uint32Array => windowOf(trace, t).subarray(0, 8);
  for (let t = 0; t < 4; t++)
    assert.equal(
      layer(t).reduce((a, b) => a + b, 0),
      model.selections,
    );
  const distance = layer(0).reduce((sum, count, e) => sum + Math.abs(count - layer(1)[e]!), 0) / 2 / model.selections;
  assert.ok(distance > 0.001 && distance < 0.2, String(distance));
});
