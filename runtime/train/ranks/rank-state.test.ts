// Rank state whose optimizer state lies on disk: a step is said to be made when all of it is, a disk that fails in one leaves nothing to go
// on from, and files are closed when what is in them is not held any more.
import assert from "node:assert/strict";
import { test } from "node:test";
import { simFacts, simOptimizer, simShape, simUnits } from "../../../test/sim/training-model.ts";
import { optimizerOf } from "../optimizers/index.ts";
import { residencyOf } from "../optimizers/residency.ts";
import { OptimizerState } from "../optimizers/state.ts";
import { ownedFloats } from "./model-shape.ts";
import { RankState } from "./rank-state.ts";
import { UnitState } from "./unit-state.ts";

const shape = simShape(1);
const nothing = { applied: -1, prepared: -1, decided: -1 };

/** All units on a disk of zeros that fails to write, if it is to. */
async function onDisk(fails = false) {
  const floats = ownedFloats(shape, 0, 1);
  const arrays = optimizerOf(simOptimizer).state.length;
  const disk = { closed: false };
  const file = {
    read: async () => {},
    write: async () => {
      if (fails) throw new Error("the disk is full");
    },
    close: () => {
      disk.closed = true;
    },
  };
  const residency = residencyOf(floats, arrays, 24_576);
  const state = await OptimizerState.open({ optimizer: optimizerOf(simOptimizer), residency, openFile: async () => file });
  const store = new UnitState(shape, 0, state);
  store.place(
    shape.experts.map((experts) => experts.map(() => 0)),
    0,
  );
  return { store, disk };
}

async function prepared(store: UnitState): Promise<RankState> {
  const rankState = new RankState();
  rankState.loaded(0, [store]);
  rankState.prepared(1, (squares) => store.update(simOptimizer.values, simFacts(1, squares)));
  rankState.decided(1, Float64Array.of(1));
  return rankState;
}

test("a step is made once all of it is in the state, not before", async () => {
  const { store } = await onDisk();
  const rankState = await prepared(store);
  const update = rankState.commitPending(1);
  assert.deepEqual(rankState.commitState, { applied: 0, prepared: 1, decided: 1 });
  await update;
  assert.deepEqual(rankState.commitState, { applied: 1, prepared: 1, decided: 1 });
  assert.ok(rankState.has(simUnits).every((has) => has === 2));
});

test("a disk that fails in an update leaves nothing that is held, since it has the step in part", async () => {
  const { store, disk } = await onDisk(true);
  const rankState = await prepared(store);
  await assert.rejects(rankState.commitPending(1), { message: "the disk is full" });
  assert.deepEqual([rankState.commitState, disk.closed], [nothing, true]);
  assert.ok(rankState.has(simUnits).every((has) => has === 0));
});

test("an expert whose state cannot be written is not here, and the others are", async () => {
  const { store } = await onDisk(true);
  const experts = simUnits.filter(({ expert }) => expert !== undefined);
  const last = experts.at(-1)!;
  await assert.rejects(store.put(last, "m", new Float32Array(last.to)), { message: "the disk is full" });
  assert.deepEqual(
    simUnits.filter((unit) => !store.holds(unit)),
    [last],
  );
});

test("the file of a world before is closed once every rank has its state, and that of this one when it is let go", async () => {
  const [old, next] = [await onDisk(), await onDisk()];
  const rankState = new RankState();
  rankState.loaded(0, [old.store]);
  rankState.arrived(0, [next.store]);
  assert.deepEqual([old.disk.closed, next.disk.closed], [false, false]);
  rankState.begun();
  assert.deepEqual([old.disk.closed, next.disk.closed, rankState.keeps(next.store)], [true, false, true]);
  rankState.drop();
  assert.ok(next.disk.closed);
});

test("while begins fail one after another, what the last settled world left stays; of one that others know to be settled too", async () => {
  const stores = [await onDisk(), await onDisk(), await onDisk(), await onDisk()] as const;
  const rankState = new RankState();
  rankState.arrived(0, [stores[0].store], 1);
  rankState.begun();
  assert.equal(rankState.settled, 1);
  for (const world of [2, 3]) rankState.arrived(0, [stores[world - 1]!.store], world);
  const kept = (): boolean[] => stores.map(({ store }) => rankState.keeps(store));
  assert.deepEqual(kept(), [true, false, true, false], "the begin of world 2 was not through");
  // Another rank has heard of all of world 3 that they have their state, and has let go of what it had before.
  rankState.settledAt(3);
  rankState.arrived(0, [stores[3].store], 4);
  assert.deepEqual(kept(), [false, false, true, true]);
});
