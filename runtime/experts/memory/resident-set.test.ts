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
  victims: [{ layer, expert, content: "weights", kind }],
});

function loaded(set: ResidentSet, layer: number, expert: number, kind: "planned" | "staged"): void {
  assert.equal(set.admit({ layer, expert }, kind).action, "load");
  set.loaded({ layer, expert });
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
  set.gone({ layer: 0, expert: 2 });
  loaded(set, 0, 3, "staged");
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
  set.gone({ layer: 1, expert: 0 });
  loaded(set, 1, 0, "staged");
  assert.ok(set.pressed());
  assert.deepEqual(set.admit({ layer: 1, expert: 1 }, "staged", one), leaves(0, 1, "planned"));
  set.gone({ layer: 0, expert: 1 });
  loaded(set, 1, 1, "staged");
  assert.deepEqual(set.admit({ layer: 1, expert: 2 }, "staged", one), leaves(1, 0, "staged"), "no other may");
  set.gone({ layer: 1, expert: 0 });
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

test("weights, gradients and optimizer state of one expert are three things, and the plan speaks for the weights alone", () => {
  const bytes = { weights: 100, gradient: 200, optimizer: 300 };
  const set = new ResidentSet({ budgetBytes: 700, bytesOf: ({ content }) => bytes[content], now });
  const at = (content: keyof typeof bytes) => ({ layer: 0, expert: 1, content });
  for (const content of ["gradient", "optimizer"] as const) {
    assert.equal(set.admit(at(content), "planned").action, "load");
    assert.equal(set.isResident({ layer: 0, expert: 1 }), false);
    set.loaded(at(content));
  }
  loaded(set, 0, 1, "planned");
  assert.equal(set.bytes, 600);
  assert.deepEqual(set.retain(0, new Set()), [{ layer: 0, expert: 1 }]);
  set.gone({ layer: 0, expert: 1 });
  assert.deepEqual([set.bytes, set.isResident(at("gradient")), set.isResident(at("optimizer"))], [500, true, true]);
  assert.equal(set.admit({ layer: 0, expert: 2, content: "optimizer" }, "staged", () => true).action, "full", "no state gives way");
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
  assert.ok(set.takeOver(admitted.victims, { layer: 1, expert: 3 }, "staged"));
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
          if (admission.action === "evict") for (const victim of admission.victims) set.gone(victim);
        } else if (call === "retain")
          for (const gone of set.retain(layer, new Set([expert]))) set.gone({ layer: gone.layer, expert: gone.expert });
        else if (call === "lease") assert.equal(set.lease({ layer, expert }), held);
        else set[call]({ layer, expert });
        assert.ok(set.count <= slots && set.bytes <= set.budgetBytes);
      }
    }),
  );
});

test("experts of any sizes and contents: the budget holds, and one always fits", () => {
  const contents = ["weights", "gradient", "optimizer"] as const;
  const step = fc.record({
    call: fc.constantFrom("planned", "staged", "loaded", "gone", "lease", "unlease", "takeOver"),
    expert: fc.record({ layer: fc.nat({ max: 1 }), expert: fc.nat({ max: 5 }), content: fc.constantFrom(...contents) }),
  });
  const sizes = fc.array(fc.nat({ max: 90 }), { minLength: 36, maxLength: 36 });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 120 }), sizes, fc.integer({ min: 0, max: 300 }), (steps, bytes, budgetBytes) => {
      const bytesOf = ({ layer, expert, content }: Required<ResidentExpert>): number =>
        bytes[(layer * 6 + expert) * 3 + contents.indexOf(content)]!;
      const set = new ResidentSet({ budgetBytes, bytesOf, now });
      let open: { victims: readonly ResidentExpert[]; expert: Required<ResidentExpert> } | undefined;
      const held = new Map<string, number>();
      const name = (expert: ResidentExpert) => JSON.stringify([expert.layer, expert.expert, expert.content]);
      const gone = (expert: ResidentExpert) => void held.delete(name(expert));
      for (const { call, expert } of steps) {
        if (call === "planned" || call === "staged") {
          const admission = set.admit(expert, call, () => true);
          if (admission.action === "load") held.set(name(expert), bytesOf(expert));
          if (admission.action === "evict") {
            for (const victim of open?.victims ?? []) {
              set.gone(victim);
              gone(victim);
            }
            open = { victims: admission.victims, expert };
          }
        } else if (call === "takeOver") {
          if (open === undefined) continue;
          const taken = set.takeOver(open.victims, open.expert, "staged");
          for (const victim of open.victims) gone(victim);
          if (taken) held.set(name(open.expert), bytesOf(open.expert));
          open = undefined;
        } else {
          set[call](expert);
          if (call === "gone") gone(expert);
        }
        assert.equal(
          set.bytes,
          [...held.values()].reduce((a, b) => a + b, 0),
        );
        const weighing = [...held.values()].filter((size) => size > 0).length;
        assert.ok(set.bytes <= budgetBytes || weighing === 1, `${set.bytes} of ${budgetBytes} in ${weighing}`);
      }
    }),
    { numRuns: 500 },
  );
});
