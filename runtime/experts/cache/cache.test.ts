// Evictions: Belady against every choice that there is, the others against it, and that old uses fade.
import assert from "node:assert/strict";
import { test } from "node:test";
import { uniform } from "../../kernels/random.ts";
import { evictions } from "./index.ts";
import { Places } from "./places.ts";

const grid = { layers: 2, experts: 3 };
const units = 6;

function misses(name: keyof typeof evictions, uses: Int32Array, slots: number, of = grid): number {
  const eviction = evictions[name].create({ grid: of, uses });
  const resident = new Set<number>();
  let missed = 0;
  for (const unit of uses) {
    eviction.use(unit);
    if (resident.has(unit)) continue;
    missed += 1;
    if (resident.size === slots) resident.delete([...resident].toSorted((a, b) => eviction.worth(a) - eviction.worth(b))[0] as number);
    resident.add(unit);
  }
  return missed;
}

/** The fewest misses of all choices. */
function fewest(uses: readonly number[], slots: number, resident: readonly number[] = []): number {
  const [unit, ...later] = uses;
  if (unit === undefined) return 0;
  if (resident.includes(unit)) return fewest(later, slots, resident);
  if (resident.length < slots) return 1 + fewest(later, slots, [...resident, unit]);
  return 1 + Math.min(...resident.map((out) => fewest(later, slots, [...resident.filter((each) => each !== out), unit])));
}

test("belady misses as few as the best of all choices, and no other fewer, on 300 traces", () => {
  const draw = uniform(3);
  for (let trace = 0; trace < 300; trace++) {
    const uses = Int32Array.from({ length: 12 }, () => Math.floor(draw() * units));
    const slots = 2 + (trace % 3);
    const best = misses("belady", uses, slots);
    assert.equal(best, fewest([...uses], slots));
    for (const name of ["lru", "lfu", "next-use"] as const) assert.ok(misses(name, uses, slots) >= best, name);
  }
});

test("lru forgets the oldest use, lfu the rarest, and lfu old ones after a while, however long it runs", () => {
  const [lru, lfu] = [evictions.lru.create({ grid }), evictions.lfu.create({ grid })];
  for (const unit of [0, 0, 0, 1]) for (const each of [lru, lfu]) each.use(unit);
  assert.ok(lru.worth(0) < lru.worth(1));
  assert.ok(lfu.worth(0) > lfu.worth(1));
  for (let i = 0; i < 200_000; i++) lfu.use(1 + (i % 2));
  assert.ok(lfu.worth(0) < lfu.worth(1) / 1e9);
  assert.ok(Number.isFinite(lfu.worth(1)) && lfu.worth(1) > 0);
});

test("next-use keeps half of what all steps need in turn, as belady does and lru and lfu do not, and what is chosen often", () => {
  const of = { layers: 16, experts: 1 };
  const turns = Int32Array.from({ length: 50 * 16 }, (_, at) => at % 16);
  const [best, next] = [misses("belady", turns, 8, of), misses("next-use", turns, 8, of)];
  assert.ok(next < 1.1 * best && best < 0.6 * turns.length, `${next} misses, and ${best} at best`);
  for (const name of ["lru", "lfu"] as const) assert.equal(misses(name, turns, 8, of), turns.length);
  for (const layers of [1, 2]) {
    const eviction = evictions["next-use"].create({ grid: { layers, experts: 3 } });
    for (let step = 0; step < 40; step++)
      for (let layer = 0; layer < layers; layer++) for (const expert of [0, 1 + Number(step % 8 === 0)]) eviction.use(3 * layer + expert);
    assert.ok(eviction.worth(0) > eviction.worth(1) && eviction.worth(1) > eviction.worth(2));
  }
});

test("next-use knows how often steps use the only expert that a rank has of a layer", () => {
  const eviction = evictions["next-use"].create({ grid: { layers: 3, experts: 1 } });
  for (let step = 0; step < 41; step++) for (const unit of step % 8 === 0 ? [0, 1, 2] : [1, 2]) eviction.use(unit);
  assert.ok(eviction.worth(0) < eviction.worth(1));
});

test("belady without the future is refused", () => {
  assert.throws(() => evictions.belady.create({ grid }), /only a replay knows/);
});

test("places hold as many as there are, and the least recently taken leaves for another", () => {
  const places = new Places<number>(3, evictions.lru);
  const draw = uniform(5);
  /** Names in the order of their last uses. */
  let want: string[] = [];
  for (let i = 0; i < 2_000; i++) {
    const name = `${Math.floor(draw() * 6)}`;
    const act = draw();
    const rest = want.filter((each) => each !== name);
    if (act < 0.2) {
      places.drop(name);
      want = rest;
    } else if (act < 0.6) {
      assert.equal(places.take(name), want.includes(name) ? Number(name) : undefined);
      if (want.includes(name)) want = [...rest, name];
    } else {
      const left = rest.length === 3 ? rest.shift() : undefined;
      assert.equal(places.put(name, Number(name))?.name, left);
      want = [...rest, name];
    }
    assert.equal(places.used, want.length);
    for (let each = 0; each < 6; each++) assert.equal(places.peek(`${each}`) !== undefined, want.includes(`${each}`));
  }
});
