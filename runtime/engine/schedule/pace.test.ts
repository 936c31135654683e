// Pieces are as large as their time allows by what was measured, between the least and the most.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { ChunkPace, Pace } from "./pace.ts";

test("sizes are powers of two or between two of them, and the least as long as nothing is known", () => {
  const pace = new Pace({ least: 16, most: 256 });
  assert.equal(pace.within(1_000), 16);
  pace.took(100, 5); // 0.05 ms each
  assert.equal(pace.within(2), 32);
  assert.equal(pace.within(2.5), 48);
  assert.equal(pace.within(20), 256);
  assert.equal(pace.within(0.1), 16, "never less than the least");
  pace.took(0, 5);
  pace.took(15, 500);
  pace.took(64, Number.NaN);
  assert.equal(pace.within(2), 32, "what is no measurement changes nothing");
});

test("a machine that becomes slower gets smaller pieces after some of them", () => {
  const pace = new Pace({ least: 1, most: 1_024 });
  pace.took(64, 1);
  assert.equal(pace.within(2), 128);
  for (let i = 0; i < 20; i++) pace.took(64, 4);
  assert.equal(pace.within(2), 32);
});

test("a chunk adds what is allowed to a step, whatever the step takes without it", () => {
  const steps = fc.record({ fixed: fc.double({ min: 0, max: 200, noNaN: true }), each: fc.double({ min: 0.01, max: 5, noNaN: true }) });
  fc.assert(
    fc.property(steps, fc.integer({ min: 1, max: 32 }), ({ fixed, each }, decodes) => {
      const pace = new ChunkPace({ least: 2, most: 128 });
      const step = (prompts: number): void => pace.took(decodes + prompts, decodes, fixed + each * (decodes + prompts));
      for (let i = 0; i < 3; i++) step(0);
      for (let i = 0; i < 40; i++) step(pace.within(20));
      const chunk = pace.within(20);
      assert.ok(chunk === 2 || chunk * each <= 20 * 1.01, `${chunk} tokens`);
      assert.ok(chunk === 128 || 2 * chunk * each >= 20, `only ${chunk} tokens`);
    }),
  );
});
