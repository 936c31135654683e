// Rows over ranks on a device whose bits are free: what crosses between host and device in a layer, and that rows are those of the way by
// the host. Vulkan has the same tests of rows (test/gpu).
import assert from "node:assert/strict";
import { resolve } from "node:path";
import { after, test } from "node:test";
import { runOverRanks } from "../../../test/contract/over-ranks.ts";
import { looseBackend } from "../../../test/kit/devices/loose.ts";
import { modelOf } from "../../../test/kit/models/golden-files.ts";
import { stepsOverRanks } from "../../../test/kit/ranks/steps-over-ranks.ts";
import { relativeError } from "../../compute/op-self-test.ts";
import { openCheckpoint } from "../../weights/checkpoint.ts";

const { backend, work } = looseBackend();
const other = looseBackend().backend;
const folder = resolve(import.meta.dirname, "../../../test/golden/families/olmoe");
const checkpoint = await openCheckpoint(folder);
after(async () => {
  for (const each of [backend, other, checkpoint]) await each.close();
});
const model = modelOf(folder, checkpoint);
const { hidden, layers } = model.program;
const world = { backend, other, model, context: 64, isHere: (layer: number, expert: number) => (layer + expert) % 2 === 0 };
const groupsOf = (rows: number, past: number) => [{ firstSlot: 0, batch: rows, tokens: 1, past: new Int32Array(rows).fill(past) }];

runOverRanks({ name: "loose", make: async () => looseBackend().backend, tolerance: 1e-4 });

test("a layer is two graphs and two reads: down come ids, gates and rows that travel, up go sums, slots and gates", async () => {
  const { step, travelled } = await stepsOverRanks(world);
  const rows = 3;
  await step([5, 17, 101], groupsOf(rows, 0), rows);
  for (const list of [work.graphs, work.reads, work.writes, travelled]) list.length = 0;
  await step([6, 18, 102], groupsOf(rows, 1), rows);
  const [bytes, chosen] = [4 * hidden, 140]; // ids, gates and a sum of each row, at places of 64 bytes
  assert.deepEqual(work.reads, [rows * bytes, ...travelled.flatMap((count) => [chosen, count * bytes]), rows * bytes]);
  assert.equal(work.graphs.length, 1 + 2 * layers.length);
  assert.equal(work.writes.filter((each) => each === rows * bytes).length, layers.length, `rows, then sums, in ${work.writes}`);
  const pairs = 4 * 3 * rows;
  assert.equal(work.writes.filter((each) => each === pairs).length, 2 * layers.length, `slots and gates of own pairs in ${work.writes}`);
});

test("pairs are counted as on the way by the host", async () => {
  const counts = [true, false].map(async (holds) => {
    const { step, counter } = await stepsOverRanks({ ...world, holds });
    await step([5, 17, 101], groupsOf(3, 0), 2);
    const { decode, prefill } = counter.take();
    return [decode, prefill].map(({ routed, served, compute }) => [routed, served, compute.runs, compute.calls, compute.rows]);
  });
  assert.deepEqual(await counts[0], await counts[1]);
});

test("a value that is no number makes its own row none, and no other", async () => {
  const { ranges, call } = await stepsOverRanks(world);
  const held = ranges.range.hold?.(2, hidden);
  const x = new Float32Array(2 * hidden).fill(0.5).fill(Number.NaN, 0, hidden);
  const { ids, gates } = held?.choose(0, call(groupsOf(2, 0)), { x }) ?? assert.fail();
  held?.add(0, { ids: ids.map((expert) => (world.isHere(0, expert) ? expert : -1)), gates });
  const found = held?.read() ?? assert.fail();
  assert.deepEqual([found.slice(0, hidden).some(Number.isFinite), found.slice(hidden).every(Number.isFinite)], [false, true]);
});

test("nothing waits for the rows that stay; those of a larger step, and of a layer that is refused, pass by the host", async (t) => {
  const [host, { step, ranges, scheduler }] = await Promise.all([stepsOverRanks({ ...world, holds: false }), stepsOverRanks(world)]);
  const reached: unknown[] = [];
  Object.assign(scheduler, { reached: (layer: unknown) => void reached.push(layer) });
  await step(new Array(300).fill(7), [{ firstSlot: 0, batch: 5, tokens: 60, past: new Int32Array(5) }], 0);
  assert.deepEqual(reached.splice(0), [...layers.keys()]);
  const rows = Object.getPrototypeOf(ranges.range.hold?.(3, hidden));
  const { choose } = rows;
  t.mock.method(rows, "choose", function (this: unknown, layer: number, ...given: unknown[]) {
    return layer === 1 ? undefined : choose.call(this, layer, ...given);
  });
  const want = await host.step([5, 17, 101], groupsOf(3, 0), 3);
  assert.ok(relativeError(await step([5, 17, 101], groupsOf(3, 0), 3), want) < 1e-4);
  assert.deepEqual([reached.length, reached.filter((layer) => layer !== undefined)], [layers.length, [1]]);
});

test("rows leave the device for a layer of whose experts one has memory of its own", async () => {
  const { ranges, experts } = await stepsOverRanks(world);
  const second = await experts.expertSlab(0)?.put(0, await model.expert(0, 0));
  assert.deepEqual(
    [0, 1].map((layer) => ranges.range.holds?.(layer, 1)),
    [false, true],
  );
  await second?.dispose();
  assert.ok(ranges.range.holds?.(0, 1));
});
