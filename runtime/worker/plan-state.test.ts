// The epoch machine accepts each step only from the step before it, and never forgets a committed placement.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { AppError } from "../../crds/common.ts";
import type { LayerPlacement, PlacementPlan } from "../../crds/plan.ts";
import { PlanState, plannedLoads } from "./plan-state.ts";

const options = { deploymentUid: "uid", rank: 0, layers: 2, experts: 2, modelDigest: "digest" };
function plan(epoch: number, layers: Record<number, number[][]>, planHash = `hash-${epoch}`): PlacementPlan {
  return {
    deploymentUid: "uid",
    epoch,
    parentEpoch: epoch - 1,
    planHash,
    modelDigest: "digest",
    layers: Object.entries(layers).map(([layer, hosts]) => ({
      layer: Number(layer),
      epoch,
      hosts,
      weights: hosts.map((row) => row.map((_, i) => (i === 0 ? 1000 : 0))),
    })),
  };
}
const first = plan(1, { 0: [[0], [1]], 1: [[1], [0]] });
function started(): PlanState {
  const state = new PlanState(options);
  state.prepare(first);
  for (const layer of [0, 1]) state.ready(layer, 1);
  assert.deepEqual(state.commit(first), { committed: [0, 1], refused: "" });
  return state;
}
function refuses(run: () => unknown, code: string, want: RegExp): void {
  assert.throws(run, (error: unknown) => error instanceof AppError && error.code === code && want.test(error.message));
}

test("a first plan goes from prepare to commit and is then complete", () => {
  const state = started();
  assert.equal(state.epoch, 1);
  assert.ok(state.complete);
  assert.deepEqual(state.planned(0), [0]);
  assert.deepEqual(state.snapshot()?.layers.length, 2);
});

test("old expert replicas stay wanted until the layer is released", () => {
  const state = started();
  const second = plan(2, { 0: [[1], [0]] });
  state.prepare(second);
  assert.deepEqual([...state.wanted(0)].sort(), [0, 1]);
  state.ready(0, 2);
  state.commit(second);
  assert.deepEqual([...state.wanted(0)].sort(), [0, 1]);
  assert.deepEqual(state.lowestEpochs(), [1, 1]);
  assert.deepEqual(state.release(2, [0]), { released: [], pending: [0] });
  state.drained(0);
  assert.deepEqual(state.release(2, [0]), { released: [0], pending: [] });
  assert.deepEqual([...state.wanted(0)], [1]);
  assert.deepEqual(state.lowestEpochs(), [2, 1]);
});

test("an abort brings back the parent and is refused after the commit", () => {
  const state = started();
  const second = plan(2, { 0: [[1], [0]], 1: [[0], [0]] });
  state.prepare(second);
  state.ready(0, 2);
  state.commit(plan(2, { 0: [[1], [0]] }));
  assert.deepEqual(state.abort(2, []), [1]);
  assert.deepEqual([...state.wanted(1)], [1]);
  assert.equal(state.current(0)?.epoch, 2);
  assert.equal(state.current(1)?.epoch, 1);
});

test("a layer that is not ready is not committed, the others are", () => {
  const state = started();
  const second = plan(2, { 0: [[1], [0]], 1: [[0], [0]] });
  state.prepare(second);
  state.ready(1, 2);
  const result = state.commit(second);
  assert.deepEqual(result.committed, [1]);
  assert.match(result.refused, /layers 0 are not ready for epoch 2/);
});

test("prepare and commit may be repeated", () => {
  const state = started();
  assert.deepEqual(state.prepare(first), { start: [], done: [0, 1] });
  assert.deepEqual(state.commit(first), { committed: [0, 1], refused: "" });
});

test("an old leader's epoch, a reused epoch and a stranger's plan are refused by name", () => {
  const state = started();
  state.prepare(plan(3, { 0: [[1], [0]] }));
  refuses(() => state.prepare(plan(2, { 0: [[1], [0]] })), "StalePlan", /epoch 2 is below 3/);
  refuses(() => state.prepare(plan(3, { 0: [[0], [0]] }, "other")), "StalePlan", /another hash/);
  refuses(() => state.commit(plan(3, { 0: [[0], [0]] }, "other")), "StalePlan", /another hash/);
  refuses(() => state.adopt(plan(1, { 0: [[0], [0]] }, "other")), "StalePlan", /another hash/);
  refuses(() => state.prepare({ ...plan(4, {}), deploymentUid: "x" }), "InvalidPlan", /deploymentUid/);
  refuses(() => state.prepare({ ...plan(4, {}), modelDigest: "x" }), "InvalidPlan", /modelDigest/);
  refuses(() => state.prepare(plan(4, { 7: [[0], [0]] })), "InvalidPlan", /layer 7 of 2/);
  refuses(() => state.prepare(plan(4, { 0: [[0]] })), "InvalidPlan", /1 experts of 2/);
});

test("a restarted rank adopts the committed plan and then takes part in the next one", () => {
  const state = new PlanState(options);
  assert.deepEqual(state.adopt(plan(5, { 0: [[0], [1]], 1: [[0], [1]] })), [0, 1]);
  assert.deepEqual(state.adopt(plan(5, { 0: [[0], [1]], 1: [[0], [1]] })), []);
  assert.deepEqual(state.adopt(plan(4, { 0: [[1], [1]] })), [], "older: ignored");
  refuses(() => state.prepare(plan(4, { 0: [[1], [1]] })), "StalePlan", /below 5/);
  assert.equal(state.prepare(plan(6, { 0: [[1], [0]] })).start.length, 1);
});

test("whatever the order of calls, epochs never go back and committed experts stay wanted", () => {
  const hosts = fc.array(fc.uniqueArray(fc.nat({ max: 2 }), { minLength: 1, maxLength: 3 }), { minLength: 2, maxLength: 2 });
  const step = fc.record({
    call: fc.constantFrom("prepare", "ready", "commit", "abort", "drained", "release", "adopt", "failed"),
    epoch: fc.integer({ min: 1, max: 6 }),
    layer: fc.nat({ max: 1 }),
    hosts,
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const state = new PlanState(options);
      const epochs = [0, 0];
      for (const { call, epoch, layer, hosts: rows } of steps) {
        const p = plan(epoch, { [layer]: rows });
        try {
          if (call === "prepare" || call === "commit" || call === "adopt") state[call](p);
          else if (call === "ready" || call === "failed") state[call](layer, epoch);
          else if (call === "abort" || call === "release") state[call](epoch, [layer]);
          else state.drained(layer);
        } catch (error) {
          assert.ok(error instanceof AppError && error.code === "StalePlan", String(error));
        }
        for (const l of [0, 1]) {
          const now = state.current(l)?.epoch ?? 0;
          assert.ok(now >= (epochs[l] ?? 0));
          epochs[l] = now;
          for (const expert of state.planned(l)) assert.ok(state.wanted(l).has(expert));
        }
      }
    }),
  );
});

const layerOf = (layer: number, hosts: readonly (readonly number[])[]): LayerPlacement => ({
  layer,
  epoch: 1,
  hosts,
  weights: hosts.map((row) => row.map((_, i) => (i === 0 ? 1000 : 0))),
});
/** Layers 3 and 7, eight experts each on rank 0; then ranks 1 to 4 get two of each layer. */
const before = [3, 7].map((layer) => layerOf(layer, Array(8).fill([0])));
const after = [3, 7].map((layer) =>
  layerOf(
    layer,
    Array.from({ length: 8 }, (_, e) => [0, 1 + (e % 4)]),
  ),
);
const parent = (layer: number) => before.find((each) => each.layer === layer);
const loads = (rank: number, sources: readonly number[] = [0]) => plannedLoads({ rank, layers: after, parent, sources: () => sources });

test("a rank loads all that the plan gives it, and the receivers of one source begin with different experts", () => {
  const receivers = [1, 2, 3, 4].map((rank) => loads(rank));
  for (const [i, own] of receivers.entries()) {
    const got = own.map(({ layer, expert }) => `${layer}.${expert}`).sort();
    assert.deepEqual(got, [`3.${i}`, `3.${i + 4}`, `7.${i}`, `7.${i + 4}`]);
  }
  assert.deepEqual(loads(0).length, 16); // what it holds already is made sure of
});

test("layers become complete one after another where the schedule allows it", () => {
  assert.deepEqual(
    loads(1).map(({ layer }) => layer),
    [3, 3, 7, 7],
  );
});

test("the scheduled source is asked first, the others after it; a first plan has none but those that may have it", () => {
  assert.deepEqual(loads(2, [5, 0, 6])[0]?.sources, [0, 5, 6]);
  assert.deepEqual(plannedLoads({ rank: 1, layers: after, parent: () => undefined, sources: () => [] })[0]?.sources, []);
});
