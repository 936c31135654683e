// Memory never holds more experts than the budget allows, planned ones stay, and a staged one in use is not evicted.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { ResidentSet } from "./resident-set.ts";

let time = 0;
/** Every look at it is a millisecond later. */
const now = () => ++time;

function loaded(set: ResidentSet, layer: number, expert: number, kind: "planned" | "staged"): void {
  assert.equal(set.admit(layer, expert, kind).action, "load");
  set.loaded(layer, expert);
}

test("room is for as many experts as the budget holds, and for one at least", () => {
  assert.equal(new ResidentSet({ budgetBytes: 350, expertBytes: 100, now }).capacity, 3);
  assert.equal(new ResidentSet({ budgetBytes: 0, expertBytes: 100, now }).capacity, 1);
});

test("a full memory gives up the staged expert that was used longest ago, never a planned or leased one", () => {
  const set = new ResidentSet({ budgetBytes: 300, expertBytes: 100, now });
  loaded(set, 0, 0, "planned");
  loaded(set, 0, 1, "staged");
  loaded(set, 0, 2, "staged");
  assert.ok(set.lease(0, 1));
  assert.deepEqual(set.admit(0, 3, "staged"), { action: "evict", victim: { layer: 0, expert: 2 }, kind: "staged" });
  assert.equal(set.admit(0, 3, "staged").action, "wait", "the victim is on its way out");
  set.gone(0, 2);
  loaded(set, 0, 3, "staged");
  assert.ok(set.lease(0, 3));
  assert.equal(set.admit(0, 4, "planned").action, "full");
  set.unlease(0, 1);
  assert.deepEqual(set.admit(0, 4, "planned"), { action: "evict", victim: { layer: 0, expert: 1 }, kind: "staged" });
});

test("a staged expert that the plan comes to want is kept", () => {
  const set = new ResidentSet({ budgetBytes: 100, expertBytes: 100, now });
  loaded(set, 0, 0, "staged");
  assert.equal(set.admit(0, 0, "planned").action, "present");
  assert.equal(set.admit(0, 1, "staged").action, "full");
});

test("planned experts that may give way go before staged ones that are in use, and never for a planned one", () => {
  let ms = 0;
  const set = new ResidentSet({ budgetBytes: 300, expertBytes: 100, now: () => ms });
  for (const expert of [0, 1]) loaded(set, 0, expert, "planned");
  loaded(set, 1, 0, "staged");
  const one = (layer: number, expert: number) => layer === 0 && expert === 1;
  assert.deepEqual(set.admit(1, 1, "planned", one), { action: "evict", victim: { layer: 1, expert: 0 }, kind: "staged" });
  set.gone(1, 0);
  loaded(set, 1, 0, "staged");
  assert.ok(set.pressed());
  assert.deepEqual(set.admit(1, 1, "staged", one), { action: "evict", victim: { layer: 0, expert: 1 }, kind: "planned" });
  set.gone(0, 1);
  loaded(set, 1, 1, "staged");
  assert.deepEqual(set.admit(1, 2, "staged", one), { action: "evict", victim: { layer: 1, expert: 0 }, kind: "staged" }, "no other may");
  set.gone(1, 0);
  loaded(set, 0, 1, "planned");
  ms += 60_000;
  assert.ok(!set.pressed());
  assert.deepEqual(
    set.admit(1, 2, "staged", one),
    { action: "evict", victim: { layer: 1, expert: 1 }, kind: "staged" },
    "it was not used for long",
  );
});

test("what a layer no longer wants leaves, unless a frame is using it", () => {
  const set = new ResidentSet({ budgetBytes: 400, expertBytes: 100, now });
  for (const expert of [0, 1, 2]) loaded(set, 0, expert, "planned");
  loaded(set, 1, 0, "planned");
  set.lease(0, 2);
  assert.deepEqual(set.retain(0, new Set([0])), [{ layer: 0, expert: 1 }]);
  assert.equal(set.lease(0, 1), false, "it is leaving");
  assert.ok(set.isResident(0, 2) && set.isResident(1, 0));
});

test("whatever is asked in whatever order, the budget holds", () => {
  const step = fc.record({
    call: fc.constantFrom("planned", "staged", "loaded", "gone", "lease", "unlease", "retain"),
    layer: fc.nat({ max: 1 }),
    expert: fc.nat({ max: 5 }),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80 }), fc.integer({ min: 1, max: 6 }), (steps, slots) => {
      const set = new ResidentSet({ budgetBytes: slots * 100, expertBytes: 100, now });
      for (const { call, layer, expert } of steps) {
        const held = set.isResident(layer, expert);
        if (call === "planned" || call === "staged") {
          const admission = set.admit(layer, expert, call);
          assert.equal(admission.action === "present", held);
          if (admission.action === "evict") set.gone(admission.victim.layer, admission.victim.expert);
        } else if (call === "retain") for (const gone of set.retain(layer, new Set([expert]))) set.gone(gone.layer, gone.expert);
        else if (call === "lease") assert.equal(set.lease(layer, expert), held);
        else set[call](layer, expert);
        assert.ok(set.count <= slots && set.bytes <= set.budgetBytes);
      }
    }),
  );
});
