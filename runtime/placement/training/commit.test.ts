// The rule of commit: events out of turn are refused, and however far each rank has come, those that are left go on from one step, whole.
import assert from "node:assert/strict";
import { test } from "node:test";
import { uniform } from "../../kernels/random.ts";
import { afterEvent, type CommitState, type Holder, nothingHeld, settle } from "./commit.ts";

const at = (applied: number, prepared = applied, decided = applied): CommitState => ({ applied, prepared, decided });
const holder = (commitState: CommitState, ...held: number[]): Holder => ({ ...commitState, held: new Set(held) });

test("a step is prepared, tallied and updated, in this order and once", () => {
  const events = ["gradients complete", "all norms here", "updated"] as const;
  let commitState = at(4);
  for (const event of events) commitState = afterEvent(commitState, event, 5);
  assert.deepEqual(commitState, at(5));
  for (const event of events.slice(1)) assert.throws(() => afterEvent(at(4), event, 5), TypeError);
  assert.throws(() => afterEvent(at(4), "gradients complete", 6), TypeError);
  assert.throws(() => afterEvent(at(4, 5, 4), "updated", 5), TypeError);
});

const cases: Readonly<Record<string, { readonly holders: readonly Holder[]; readonly want: object }>> = {
  "all at one step keep it": {
    holders: [holder(at(3), 0), holder(at(3), 1)],
    want: { step: 3, ranks: ["keep", "keep"], giver: 0 },
  },
  "one that has all norms is enough": {
    holders: [holder(at(3, 4, 3), 0), holder(at(3, 4, 4), 1)],
    want: { step: 4, ranks: ["finish", "finish"], giver: 1 },
  },
  "one that has made the step brings the others to it": {
    holders: [holder(at(4), 0), holder(at(3, 4, 3), 1)],
    want: { step: 4, ranks: ["keep", "finish"], giver: 0 },
  },
  "without all norms the step is made again": {
    holders: [holder(at(3, 4, 3), 0), holder(at(3), 1)],
    want: { step: 3, ranks: ["keep", "keep"], giver: 0 },
  },
  "a rank that comes holds nothing, one from long ago holds nothing of use": {
    holders: [holder(nothingHeld), holder(at(2), 0, 1), holder(at(4), 0, 1)],
    want: { step: 4, ranks: ["drop", "drop", "keep"], giver: 2 },
  },
  "an older step that is whole is better than a newer one with holes": {
    holders: [holder(at(3), 0, 1), holder(at(7), 1)],
    want: { step: 3, ranks: ["keep", "drop"], giver: 0 },
  },
  "state that was handed over has no norms to give": {
    holders: [holder(at(4, 4, -1), 0), holder(at(3, 4, 4), 1)],
    want: { step: 4, ranks: ["keep", "finish"], giver: 1 },
  },
  "a unit that nobody has is missing by its number": {
    holders: [holder(at(3), 1), holder(at(3), 1)],
    want: { missing: [0] },
  },
  "at the begin all are missing": { holders: [holder(nothingHeld)], want: { missing: [0, 1] } },
};

for (const [name, { holders, want }] of Object.entries(cases))
  test(name, () => {
    assert.deepEqual(settle(holders, 2), want);
  });

/** A world in which ranks are stopped anywhere in a step; all that happened keeps to the rule. */
function stopped(next: () => number): { readonly ranks: CommitState[]; readonly step: number } {
  const [count, step] = [2 + Math.floor(3 * next()), 5];
  const prepared = Array.from({ length: count }, () => next() < 0.7);
  const ranks = prepared.map((ready): CommitState => {
    if (!ready) return at(step);
    if (!prepared.every(Boolean) || next() < 0.4) return at(step, step + 1, step);
    return next() < 0.5 ? at(step, step + 1, step + 1) : at(step + 1);
  });
  return { ranks, step };
}

test("whoever is lost, ranks that are left agree on a step no older than any that one of them has made", () => {
  const next = uniform(1);
  for (let turn = 0; turn < 2000; turn++) {
    const { ranks, step } = stopped(next);
    const left = ranks.filter(() => next() < 0.7);
    if (left.length === 0) continue;
    const settled = settle(
      left.map((commitState) => holder(commitState, 0)),
      1,
    );
    assert.ok("step" in settled);
    assert.ok(settled.step >= Math.max(...left.map(({ applied }) => applied)));
    assert.ok(settled.step <= step + 1);
    assert.ok(!settled.ranks.includes("drop"), JSON.stringify({ left, settled }));
    if (settled.ranks.includes("finish")) assert.equal(left[settled.giver]!.decided, settled.step);
  }
});
