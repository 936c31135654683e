// Loads ahead of use against the production resident set and materializer: none begins while rows wait for others, none displaces what is
// worth more, and each is counted once by what became of it.
import assert from "node:assert/strict";
import { test } from "node:test";
import { setImmediate as settled } from "node:timers/promises";
import { uniform } from "../kernels/random.ts";
import { silentLog } from "../observe/log.ts";
import { Materializer } from "./memory/materializer.ts";
import { ResidentSet } from "./memory/resident-set.ts";
import { TransferPace } from "./memory/transfer-pace.ts";
import { PrefetchLoads } from "./prefetch-loads.ts";

const experts = 8;

function memory(slots: number, unitBytes = 1) {
  const begun: number[] = [];
  const reading = new Map<number, () => void>();
  const uses = new Float64Array(2 * experts);
  const residents: ResidentSet = new ResidentSet({
    ...{ budgetBytes: slots, bytesOf: () => 1, now: () => 0 },
    worth: (expert) => loads.worth(expert),
    onGone: (expert) => loads.gone(expert),
  });
  const materializer = new Materializer({
    device: { load: async () => {}, unload: async () => {} },
    residents,
    tiers: {
      read: async ({ layer, expert }) => {
        const cell = layer * experts + expert;
        begun.push(cell);
        await new Promise<void>((resolve) => reading.set(cell, resolve));
        return { unit: new Uint8Array(1), source: "store", seconds: 0 };
      },
    },
    storedBytes: () => unitBytes,
    pace: new TransferPace({ onChange: () => {} }),
    log: silentLog,
    loadsAtOnce: 4,
  });
  const loads: PrefetchLoads = new PrefetchLoads({
    ...{ materializer, experts, sourcesOf: () => [], wanted: (_layer, expert) => expert < 7, loaded: () => {}, atOnce: 4 },
    isResident: (expert) => residents.isResident(expert),
    eviction: {
      use: (cell) => {
        uses[cell] = (uses[cell] as number) + 0.1;
      },
      worth: (cell, chance = 0) => Math.max(uses[cell] as number, chance),
    },
  });
  const expect = (...named: (readonly [cell: number, chance: number])[]) =>
    loads.expect({
      cells: Int32Array.from(named, ([cell]) => cell),
      chances: Float32Array.from(named, ([, chance]) => chance),
    });
  /** The oldest one, or that one; a cell that nobody reads: time passes. */
  const arrive = async (one?: number) => {
    await settled();
    const cell = one ?? [...reading.keys()][0] ?? -1;
    reading.get(cell)?.();
    reading.delete(cell);
    await settled();
  };
  const has = (cell: number) => residents.isResident({ layer: Math.floor(cell / experts), expert: cell % experts });
  return { begun, reading, residents, loads, expect, arrive, has };
}

test("what is named last is loaded, the likeliest first, two at once, what the plan has elsewhere never", async () => {
  const { begun, expect, arrive, has, loads } = memory(8);
  expect([7, 1], [3, 1], [2, 0.9], [5, 0.5], [4, 0.4]);
  assert.deepEqual(begun, [3, 2]);
  expect([5, 1], [6, 0.2]);
  await arrive(3);
  assert.deepEqual(begun, [3, 2, 5], "4 is not expected any more");
  await arrive(2);
  await arrive(5);
  loads.used(Int32Array.of(3, 3, 9));
  assert.ok(has(3) && has(2) && has(5));
  assert.deepEqual(loads.counts, { useful: 1, late: 0, wasted: 0, bytes: 3 });
});

test("large units come one at a time", () => {
  const { begun, expect } = memory(8, 40 * 2 ** 20);
  expect([3, 1], [2, 0.9]);
  assert.deepEqual(begun, [3]);
});

test("memory that is full gives way to what is likelier than its own experts, and to nothing else", async () => {
  const { begun, expect, arrive, has, loads } = memory(2);
  expect([0, 1], [1, 1]);
  await arrive();
  await arrive();
  loads.used(Int32Array.of(0, 0, 0, 0, 1, 1));
  expect([2, 0.1]);
  await settled();
  assert.deepEqual(begun, [0, 1], "two uses in a step are worth more than 0.1");
  expect([2, 0.3], [3, 0.35]);
  await arrive();
  await arrive();
  assert.ok(has(0) && has(2) && !has(1) && !has(3), "2 is expected, and 0 is worth 0.4");
  expect([3, 0.35]);
  await arrive();
  assert.ok(has(3) && !has(2));
  assert.equal(loads.counts.wasted, 1, "2 left unused");
});

test("rows that wait for a load on its way make it late, and its bytes are told once", async () => {
  const { expect, arrive, loads } = memory(2);
  expect([1, 1]);
  assert.equal(loads.joined({ layer: 0, expert: 1 }), 1);
  assert.equal(loads.joined({ layer: 0, expert: 1 }), 0);
  assert.equal(loads.joined({ layer: 1, expert: 1 }), 0);
  await arrive();
  loads.used(Int32Array.of(1));
  assert.deepEqual(loads.counts, { useful: 0, late: 1, wasted: 0, bytes: 0 });
});

test("in 100 random runs no load begins while rows wait, at most two are on their way, and each counts once", async () => {
  for (let seed = 1; seed <= 100; seed++) {
    const draw = uniform(seed);
    const whole = (below: number) => Math.floor(draw() * below);
    const { begun, reading, loads, expect, arrive, residents } = memory(1 + whole(5));
    let demands = 0;
    for (let i = 0; i < 40; i++) {
      const before = begun.length;
      const waits = demands > 0;
      const act = whole(4);
      if (act === 0) expect(...Array.from({ length: whole(6) }, () => [whole(2 * experts), draw()] as const));
      if (act === 1) loads.used(Int32Array.of(whole(2 * experts)));
      if (act === 2) {
        demands = whole(2);
        loads.demands(demands);
      }
      await arrive(act === 3 ? undefined : -1);
      assert.ok(begun.length === before || !(waits && demands > 0), `seed ${seed}: a load began while rows wait`);
      assert.ok(reading.size <= 2 && residents.bytes <= residents.budgetBytes, `seed ${seed}`);
    }
    loads.demands(0);
    expect();
    while (reading.size > 0) await arrive();
    const { useful, wasted, bytes } = loads.counts;
    assert.ok(useful + wasted <= bytes && bytes <= useful + wasted + residents.count, `seed ${seed}: ${JSON.stringify(loads.counts)}`);
  }
});
