// The dense part over a device and the machine: within what is asked, as few layers streamed as need be, and evenly among the others.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { planDense } from "./dense-plan.ts";

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);
const layers = fc.array(fc.integer({ min: 1, max: 1000 }), { minLength: 1, maxLength: 40 });

test("the device has at most what is asked for, and the machine exactly what comes from it", () => {
  fc.assert(
    fc.property(
      layers,
      fc.nat(1000),
      fc.double({ min: 0, max: 1.1, noNaN: true }),
      fc.constantFrom(2, 4),
      (layerBytes, endBytes, share, slots) => {
        const least = endBytes + slots * Math.max(...layerBytes);
        const askedBytes = Math.ceil(least + share * sum(layerBytes));
        const plan = planDense({ endBytes, layerBytes, slots, askedBytes });
        assert.ok(plan.deviceBytes <= askedBytes);
        assert.equal(plan.hostBytes, sum([...plan.streamed].map((layer) => layerBytes[layer]!)));
        assert.equal(plan.deviceBytes, endBytes + sum(layerBytes) - plan.hostBytes + (plan.streamed.size > 0 ? slots * plan.slotBytes : 0));
      },
    ),
  );
});

test("of equal layers the fewest are streamed, evenly", () => {
  const plan = (askedBytes: number) => planDense({ endBytes: 50, layerBytes: new Array<number>(12).fill(10), slots: 2, askedBytes });
  assert.equal(plan(170).streamed.size, 0);
  assert.deepEqual([...plan(160).streamed], [3, 7, 11]);
  assert.deepEqual([...plan(130).streamed], [1, 3, 5, 7, 9, 11]);
  assert.equal(plan(70).streamed.size, 12);
  assert.throws(() => plan(69), { code: "InsufficientMemory", message: /deviceDenseMemory .* raise it to at least / });
});
