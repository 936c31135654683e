import assert from "node:assert/strict";
import { test } from "node:test";
import { transitionPairsMax, transitionSampling } from "../../../crds/telemetry.ts";
import { TransitionSampler } from "./transition-sampler.ts";

const asked = (layers = 3, experts = 8): TransitionSampler => {
  const sampler = new TransitionSampler({ layers, experts });
  sampler.take(true);
  return sampler;
};

test("nothing is followed until it is asked for, and no longer once it is not", () => {
  const sampler = new TransitionSampler({ layers: 3, experts: 8 });
  assert.deepEqual(sampler.choose(10_000), []);
  assert.deepEqual(sampler.take(true), {});
  assert.ok(sampler.choose(10_000).length > 0);
  sampler.take(false);
  assert.deepEqual(sampler.choose(10_000), []);
});

for (const batch of [1, 7, 64, 512]) {
  test(`one token in ${transitionSampling} is followed in steps of ${batch}, every place of the batch alike`, () => {
    const sampler = asked();
    const tokens = 400_000;
    const byPlace = new Array<number>(batch).fill(0);
    for (let seen = 0; seen < tokens; seen += batch) for (const row of sampler.choose(batch)) byPlace[row]!++;
    const all = byPlace.reduce((a, b) => a + b, 0);
    assert.ok(Math.abs(all / (tokens / transitionSampling) - 1) < 0.05, `${all} of ${tokens}`);
    const mean = all / batch;
    for (const [row, count] of byPlace.entries())
      assert.ok(Math.abs(count - mean) < 6 * Math.sqrt(mean), `row ${row}: ${count}, mean ${mean}`);
  });
}

test("a token counts every pair of the experts it chose in a layer and in the next, per phase", () => {
  const sampler = asked();
  sampler.count("decode", 1, Int32Array.of(2, 5), Int32Array.of(7, 0));
  sampler.count("decode", 1, Int32Array.of(2, 5), Int32Array.of(7, 1));
  sampler.count("prefill", 0, Int32Array.of(0), Int32Array.of(3));
  const { decode, prefill } = sampler.take(true);
  const cell = (layer: number, i: number, j: number): number => (layer * 8 + i) * 8 + j;
  const want = [
    [cell(1, 2, 7), 2],
    [cell(1, 2, 0), 1],
    [cell(1, 5, 7), 2],
    [cell(1, 5, 0), 1],
    [cell(1, 2, 1), 1],
    [cell(1, 5, 1), 1],
  ];
  assert.deepEqual(
    Array.from(decode!.cells, (c, n) => [c, decode!.counts[n]]),
    want,
  );
  assert.deepEqual([[...prefill!.cells], [...prefill!.counts]], [[3], [1]]);
  assert.deepEqual(sampler.take(true), {}, "a reading starts anew");
});

test("of more pairs than a message holds the most frequent are kept", () => {
  const sampler = asked(2, 256);
  for (let i = 0; i < 256; i++) for (let j = 0; j < 256; j++) sampler.count("decode", 0, Int32Array.of(i), Int32Array.of(j));
  for (let n = 0; n < 5; n++) sampler.count("decode", 0, Int32Array.of(255), Int32Array.of(255));
  const { decode } = sampler.take(true);
  assert.equal(decode?.cells.length, transitionPairsMax);
  const top = decode!.cells.indexOf(255 * 256 + 255);
  assert.equal(decode!.counts[top], 6);
  assert.equal(new Set(decode!.cells).size, transitionPairsMax);
});

test("a model with more pairs than a cell number can name, or with one layer, is not followed", () => {
  for (const [layers, experts] of [
    [1024, 4096],
    [1, 8],
  ] as const)
    assert.deepEqual(asked(layers, experts).choose(10_000), []);
});
