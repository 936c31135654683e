// Memory never holds more experts than the budget allows, planned ones stay, and a staged one in use is not evicted.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type ResidentExpert, ResidentSet } from "./resident-set.ts";

let time = 0;
/** Every look at it is a millisecond later. */
const now = () => ++time;

const hundred = () => 100;
const leaves = (layer: number, expert: number, kind: "planned" | "staged") => ({
  action: "evict",
  victims: [{ layer, expert, kind }],
});

function loaded(set: ResidentSet, layer: number, expert: number, kind: "planned" | "staged"): void {
  assert.equal(set.admit({ layer, expert }, kind).action, "load");
  set.loaded({ layer, expert });
}

/** The victim has left, and what it left for has come. */
function replaced(set: ResidentSet, victim: ResidentExpert, expert: ResidentExpert): void {
  set.takeOver([victim], expert);
  set.loaded(expert);
}

test("room is for as many experts as the budget holds, and for one at least", () => {
  for (const [budgetBytes, capacity] of [
    [350, 3],
    [0, 1],
  ] as const) {
    const set = new ResidentSet({ budgetBytes, bytesOf: hundred, now });
    for (let expert = 0; expert < capacity; expert++) loaded(set, 0, expert, "planned");
    assert.deepEqual([set.hasRoom({ layer: 0, expert: 9 }), set.admit({ layer: 0, expert: 9 }, "planned").action], [false, "full"]);
  }
});

test("a full memory gives up the staged expert that was used longest ago, never a planned or leased one", () => {
  const set = new ResidentSet({ budgetBytes: 300, bytesOf: hundred, now });
  loaded(set, 0, 0, "planned");
  loaded(set, 0, 1, "staged");
  loaded(set, 0, 2, "staged");
  assert.ok(set.lease({ layer: 0, expert: 1 }));
  assert.deepEqual(set.admit({ layer: 0, expert: 3 }, "staged"), leaves(0, 2, "staged"));
  assert.equal(set.admit({ layer: 0, expert: 3 }, "staged").action, "wait", "the victim is on its way out");
  replaced(set, { layer: 0, expert: 2 }, { layer: 0, expert: 3 });
  assert.ok(set.lease({ layer: 0, expert: 3 }));
  assert.equal(set.admit({ layer: 0, expert: 4 }, "planned").action, "full");
  set.unlease({ layer: 0, expert: 1 });
  assert.deepEqual(set.admit({ layer: 0, expert: 4 }, "planned"), leaves(0, 1, "staged"));
});

test("a staged expert that the plan comes to want is kept", () => {
  const set = new ResidentSet({ budgetBytes: 100, bytesOf: hundred, now });
  loaded(set, 0, 0, "staged");
  assert.equal(set.admit({ layer: 0, expert: 0 }, "planned").action, "present");
  assert.equal(set.admit({ layer: 0, expert: 1 }, "staged").action, "full");
});

test("planned experts that may give way go before staged ones that are in use, and never for a planned one", () => {
  let ms = 0;
  const set = new ResidentSet({ budgetBytes: 300, bytesOf: hundred, now: () => ms });
  for (const expert of [0, 1]) loaded(set, 0, expert, "planned");
  loaded(set, 1, 0, "staged");
  const one = (layer: number, expert: number) => layer === 0 && expert === 1;
  assert.deepEqual(set.admit({ layer: 1, expert: 1 }, "planned", one), leaves(1, 0, "staged"));
  for (const expert of [0, 1]) set.gone({ layer: 1, expert });
  loaded(set, 1, 0, "staged");
  assert.ok(set.pressed());
  assert.deepEqual(set.admit({ layer: 1, expert: 1 }, "staged", one), leaves(0, 1, "planned"));
  replaced(set, { layer: 0, expert: 1 }, { layer: 1, expert: 1 });
  assert.deepEqual(set.admit({ layer: 1, expert: 2 }, "staged", one), leaves(1, 0, "staged"), "no other may");
  for (const expert of [0, 2]) set.gone({ layer: 1, expert });
  loaded(set, 0, 1, "planned");
  ms += 60_000;
  assert.ok(!set.pressed());
  assert.deepEqual(set.admit({ layer: 1, expert: 2 }, "staged", one), leaves(1, 1, "staged"), "it was not used for long");
});

test("what a layer no longer wants leaves, unless a frame is using it", () => {
  const set = new ResidentSet({ budgetBytes: 400, bytesOf: hundred, now });
  for (const expert of [0, 1, 2]) loaded(set, 0, expert, "planned");
  loaded(set, 1, 0, "planned");
  set.lease({ layer: 0, expert: 2 });
  assert.deepEqual(set.retain(0, new Set([0])), [{ layer: 0, expert: 1 }]);
  assert.equal(set.lease({ layer: 0, expert: 1 }), false, "it is leaving");
  assert.ok(set.isResident({ layer: 0, expert: 2 }) && set.isResident({ layer: 1, expert: 0 }));
});

test("as many leave as a large expert needs, small ones stay where a large one has left, and all of their room is its own", () => {
  let ms = 0;
  const set = new ResidentSet({ budgetBytes: 100, bytesOf: ({ expert }) => expert * 10, now: () => ms++ });
  for (const expert of [1, 2, 3, 4]) loaded(set, 0, expert, "staged");
  const admitted = set.admit({ layer: 1, expert: 3 }, "staged");
  assert.ok(admitted.action === "evict");
  assert.deepEqual(
    admitted.victims.map(({ expert }) => expert),
    [1, 2],
  );
  assert.equal(set.admit({ layer: 1, expert: 9 }, "staged").action, "wait");
  set.takeOver(admitted.victims, { layer: 1, expert: 3 });
  set.loaded({ layer: 1, expert: 3 });
  const next = set.admit({ layer: 1, expert: 4 }, "staged");
  assert.ok(next.action === "evict");
  assert.deepEqual(
    next.victims.map(({ expert }) => expert),
    [4],
    "3 alone was not enough, and is not needed beside 4",
  );
  const third = set.admit({ layer: 2, expert: 1 }, "staged");
  assert.ok(third.action === "evict");
  assert.deepEqual(
    third.victims.map(({ expert }) => expert),
    [3],
    "what is leaving already is nobody's victim twice",
  );
});

test("whatever is asked in whatever order, the budget holds", () => {
  const step = fc.record({
    call: fc.constantFrom("planned", "staged", "loaded", "gone", "lease", "unlease", "retain"),
    layer: fc.nat({ max: 1 }),
    expert: fc.nat({ max: 5 }),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80 }), fc.integer({ min: 1, max: 6 }), (steps, slots) => {
      const set = new ResidentSet({ budgetBytes: slots * 100, bytesOf: hundred, now });
      for (const { call, layer, expert } of steps) {
        const held = set.isResident({ layer, expert });
        if (call === "planned" || call === "staged") {
          const admission = set.admit({ layer, expert }, call);
          assert.equal(admission.action === "present", held);
          if (admission.action === "evict") set.takeOver(admission.victims, { layer, expert });
        } else if (call === "retain")
          for (const gone of set.retain(layer, new Set([expert]))) set.gone({ layer: gone.layer, expert: gone.expert });
        else if (call === "lease") assert.equal(set.lease({ layer, expert }), held);
        else set[call]({ layer, expert });
        assert.ok(set.count <= slots && set.bytes <= set.budgetBytes);
      }
    }),
  );
});

test("what is free beside the victims is kept for the one that they leave for, and free again when it does not come", () => {
  for (const comes of [true, false]) {
    const set = new ResidentSet({ budgetBytes: 100, bytesOf: ({ expert }) => expert * 10, now });
    for (const expert of [4, 5]) loaded(set, 0, expert, "staged");
    assert.ok(set.lease({ layer: 0, expert: 4 }));
    const large = { layer: 1, expert: 6 };
    assert.deepEqual(set.admit(large, "staged"), leaves(0, 5, "staged"));
    for (const again of [large, { layer: 1, expert: 1 }]) assert.equal(set.admit(again, "staged").action, "wait");
    assert.deepEqual([set.count, set.bytes], [2, 100], "it is not in memory yet");
    if (comes) set.takeOver([{ layer: 0, expert: 5 }], large);
    else for (const gone of [large, { layer: 0, expert: 5 }]) set.gone(gone);
    assert.deepEqual([set.count, set.bytes, set.hasRoom({ layer: 1, expert: 1 })], comes ? [2, 100, false] : [1, 40, true]);
  }
});

const manyExperts = { layers: 2, experts: 6 };

/** What a set was asked, with who makes room for whom: what its owner knows of it. */
class Owner {
  readonly set: ResidentSet;
  readonly #bytesOf: (expert: ResidentExpert) => number;
  readonly #held = new Map<string, number>();
  readonly #open: { readonly victims: readonly ResidentExpert[]; readonly expert: ResidentExpert }[] = [];

  constructor(budgetBytes: number, bytes: readonly number[]) {
    this.#bytesOf = ({ layer, expert }) => bytes[layer * manyExperts.experts + expert]!;
    this.set = new ResidentSet({ budgetBytes, bytesOf: this.#bytesOf, now });
  }

  admit(expert: ResidentExpert, kind: "planned" | "staged"): void {
    const admission = this.set.admit(expert, kind, () => true);
    if (admission.action === "load") this.#hold(expert);
    if (admission.action === "evict") this.#open.push({ victims: admission.victims, expert });
  }
  gone(expert: ResidentExpert): void {
    if (this.#open.some((open) => [open.expert, ...open.victims].some((each) => key(each) === key(expert)))) return; // not its owner
    this.#forget(expert);
  }
  /** The eviction that began first is done; one that evicted always gets in. */
  takeOver(): void {
    const open = this.#open.shift();
    if (open === undefined) return;
    this.set.takeOver(open.victims, open.expert);
    for (const victim of open.victims) this.#held.delete(key(victim));
    this.#hold(open.expert);
    this.set.loaded(open.expert);
    assert.ok(this.set.isResident(open.expert), "it evicted, and did not get in");
  }
  /** The eviction that began first has failed. */
  fail(): void {
    const open = this.#open.shift();
    for (const each of open ? [...open.victims, open.expert] : []) this.#forget(each);
  }
  check(): void {
    const sizes = [...this.#held.values()];
    const bytes = sizes.reduce((a, b) => a + b, 0);
    assert.ok(this.#open.length > 0 ? this.set.bytes >= bytes : this.set.bytes === bytes, `${this.set.bytes} said, ${bytes} held`);
    assert.equal(this.set.count, sizes.length);
    const weighing = sizes.filter((size) => size > 0).length;
    assert.ok(bytes <= this.set.budgetBytes || weighing === 1, `${bytes} of ${this.set.budgetBytes} in ${weighing}`);
  }

  #hold(expert: ResidentExpert): void {
    this.#held.set(key(expert), this.#bytesOf(expert));
  }
  #forget(expert: ResidentExpert): void {
    this.set.gone(expert);
    this.#held.delete(key(expert));
  }
}
const key = ({ layer, expert }: ResidentExpert): string => `${layer}.${expert}`;

test("experts of any sizes: the budget holds, one always fits, and whoever evicted gets in", () => {
  const calls = ["planned", "staged", "loaded", "gone", "lease", "unlease", "takeOver", "fail"] as const;
  const [layer, expert] = [fc.nat({ max: manyExperts.layers - 1 }), fc.nat({ max: manyExperts.experts - 1 })];
  const step = fc.record({ call: fc.constantFrom(...calls), of: fc.record({ layer, expert }) });
  const sizes = fc.array(fc.nat({ max: 90 }), { minLength: 12, maxLength: 12 });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 120 }), sizes, fc.integer({ min: 0, max: 300 }), (steps, bytes, budgetBytes) => {
      const owner = new Owner(budgetBytes, bytes);
      for (const { call, of } of steps) {
        if (call === "planned" || call === "staged") owner.admit(of, call);
        else if (call === "takeOver" || call === "fail") owner[call]();
        else if (call === "gone") owner.gone(of);
        else owner.set[call](of);
        owner.check();
      }
    }),
    { numRuns: 500 },
  );
});

test("where ranks serve more than they hold, what is worth least leaves for a staged expert, planned or not, and never for a plan", () => {
  const worth = [5, 1, 3];
  const set = new ResidentSet({ budgetBytes: 300, bytesOf: hundred, now, worth: ({ expert }) => worth[expert] as number });
  for (const expert of [0, 1, 2]) loaded(set, 0, expert, "planned");
  assert.equal(set.admit({ layer: 0, expert: 7 }, "planned").action, "full");
  assert.ok(set.lease({ layer: 0, expert: 1 }));
  assert.deepEqual(set.admit({ layer: 0, expert: 3 }, "staged"), leaves(0, 2, "planned"));
  replaced(set, { layer: 0, expert: 2 }, { layer: 0, expert: 3 });
  worth[3] = 9;
  set.unlease({ layer: 0, expert: 1 });
  assert.deepEqual(set.admit({ layer: 0, expert: 2 }, "staged"), leaves(0, 1, "planned"));
});
