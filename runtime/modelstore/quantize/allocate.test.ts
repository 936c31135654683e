// Widths are allocated exactly: never worse than any of all choices, on costs and sizes as experts have them and on any others.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { allocate, type Choice } from "./allocate.ts";

const sumOf = (experts: readonly (readonly Choice[])[], chosen: readonly number[], of: keyof Choice): number =>
  chosen.reduce((sum, choice, i) => sum + experts[i]![choice]![of], 0);

/** Every choice, by counting. */
function byBruteForce(experts: readonly (readonly Choice[])[], budget: number): { cost: number; bytes: number } | undefined {
  let best: { cost: number; bytes: number } | undefined;
  const of = experts.reduce((product, { length }) => product * length, 1);
  for (let n = 0; n < of; n++) {
    let left = n;
    const chosen = experts.map(({ length }) => {
      const own = left % length;
      left = Math.floor(left / length);
      return own;
    });
    const [cost, bytes] = [sumOf(experts, chosen, "cost"), sumOf(experts, chosen, "bytes")];
    if (bytes > budget) continue;
    if (best === undefined || cost < best.cost || (cost === best.cost && bytes < best.bytes)) best = { cost, bytes };
  }
  return best;
}

const cost = fc.oneof(fc.double({ min: 0, max: 1, noNaN: true }), fc.constantFrom(0, 0.25, 1));
const likeExperts = fc
  .record({ widths: fc.subarray([42, 55, 72, 88, 136, 18], { minLength: 1 }), count: fc.integer({ min: 1, max: 6 }) })
  .chain(({ widths, count }) =>
    fc.array(fc.tuple(...widths.map((bytes) => cost.map((each) => ({ bytes: 4096 * bytes, cost: each })))), {
      minLength: count,
      maxLength: count,
    }),
  );
const anyExperts = fc.array(fc.array(fc.record({ bytes: fc.integer({ min: 1, max: 60 }), cost }), { minLength: 1, maxLength: 4 }), {
  maxLength: 6,
});

for (const [kind, experts, unit] of [
  ["experts of a layer, whose widths are alike", likeExperts, 4096],
  ["unlike experts of any sizes", anyExperts, 1],
] as const)
  test(`${kind}: the cheapest of all choices within the bytes, or none`, () => {
    fc.assert(
      fc.property(experts, fc.double({ min: 0, max: 1, noNaN: true }), (all, part) => {
        const most = all.reduce((sum, choices) => sum + Math.max(...choices.map(({ bytes }) => bytes)), 0);
        const budget = Math.floor(part * (most + 20 * unit));
        const got = allocate(all, budget);
        const want = byBruteForce(all, budget);
        if (want === undefined) return assert.equal(got, undefined);
        assert.ok(sumOf(all, got!, "bytes") <= budget);
        assert.deepEqual({ cost: sumOf(all, got!, "cost"), bytes: sumOf(all, got!, "bytes") }, want);
      }),
      { numRuns: 400 },
    );
  });

test("a layer of 128 experts and six widths takes a fraction of a second", () => {
  const widths = [28, 42, 55, 72, 88, 136];
  const layer = Array.from({ length: 128 }, (_, i) =>
    widths.map((bytes) => ({ bytes: 24_576 * bytes, cost: (1 + Math.sin(i)) / bytes ** 2 })),
  );
  const started = performance.now();
  const got = allocate(layer, 128 * 24_576 * 50)!;
  assert.ok(sumOf(layer, got, "bytes") > 128 * 24_576 * 49.9, "the bytes are used up");
  assert.ok(performance.now() - started < 5_000);
});
