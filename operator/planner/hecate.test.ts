import assert from "node:assert/strict";
import { test } from "node:test";
import type { LayerPlan } from "../../crds/plan.ts";
import { imbalance } from "../../runtime/placement/imbalance.ts";
import { loadByWeights } from "../../runtime/placement/split.ts";
import { modelShape, planInput } from "../../test/kit/planner/plan-input.ts";
import { makePlan, policies } from "./index.ts";
import { ReshardAge } from "./load/timing.ts";
import { rankSpecs, simulate } from "./offline/simulate.ts";
import { windowOf } from "./offline/traces.ts";
import { generateTrace, presets } from "./offline/traces-generate.ts";
import { reshardEvery } from "./policies/hecate.ts";
import { type PlanInput, type Timing, unlimited } from "./policy.ts";

const alone = (hosts: number[][]): LayerPlan[] => [{ hosts, weights: hosts.map((row) => row.map((_, i) => (i === 0 ? 1000 : 0))) }];
/** Expert e has its primary on rank e mod 4, two slots of each rank are free; experts 0 and 1 are hot. Mean of a rank: 75. */
const input = planInput(modelShape(1, 16), rankSpecs({ ranks: 4, slotsTotal: 6 }), {
  load: Float64Array.from({ length: 16 }, (_, e) => [100, 60][e] ?? 10),
  current: alone(Array.from({ length: 16 }, (_, e) => [e % 4])),
  windowsSinceReshard: 1,
});
const timing: Timing = { denseSeconds: 1, expertSeconds: 0, bytesPerSecond: 1, windows: 10 };
const copied = async (more: Partial<PlanInput>): Promise<number[]> => {
  const { layers } = await makePlan(policies.hecate, { ...input, ...more });
  return (layers[0]?.hosts ?? []).flatMap((row, e) => (row.length > 1 ? [e] : []));
};

test("as many experts are copied as transfers hide behind other work", async () => {
  assert.deepEqual(await copied({ timing: { ...timing, denseSeconds: 0 } }), []);
  assert.deepEqual(await copied({ timing }), [0]);
  assert.deepEqual(await copied({ timing: { ...timing, denseSeconds: 0.5, bytesPerSecond: 4 } }), [0, 1]);
  // Nothing measured: as many as a quarter of the experts and the slots, which serve the hottest.
  assert.deepEqual(await copied({}), [0, 1, 2, 3]);
});

test("expert replicas beyond the overlap come when they save more than their transfer shows", async () => {
  // Now rank 0 has 130 of 75. With expert 0 copied rank 1 has 90 of 75 (1.2), with expert 1 as well 75 (1.0). An expert replica a rank takes 1 s.
  const breakEven = (1 / 0.2) * (130 / 75);
  assert.deepEqual(await copied({ timing: { ...timing, expertSeconds: (0.95 * breakEven) / 10 } }), [0]);
  assert.deepEqual(await copied({ timing: { ...timing, expertSeconds: (1.05 * breakEven) / 10 } }), [0, 1]);
  assert.deepEqual(await copied({ timing: { ...timing, expertSeconds: (0.95 * breakEven) / 10, windows: 20 } }), [0, 1]);
});

test("expert replicas that are there cost nothing and stay for the least that they save", async () => {
  const everywhere = Array.from({ length: 16 }, (_, e) => (e === 1 ? [1, 0, 2, 3] : [e % 4]));
  assert.deepEqual(await copied({ current: alone(everywhere), timing: { ...timing, expertSeconds: 1e-3 } }), [0, 1]);
});

const small = generateTrace("small", { ...presets.qwen3_48x128, layers: 6, windows: 7 }, 4);
const cells = small.layers * small.experts;
const sizes = new Float64Array(cells).fill(1);
const load = (window: number) => Float64Array.from(windowOf(small, window));
/** The hottest experts are the coldest now. */
const turned = load(0).map((_, i, all) => {
  const layer = Math.floor(i / small.experts) * small.experts;
  return all[layer + small.experts - 1 - (i - layer)] as number;
});
const wide: PlanInput = {
  ...input,
  shape: { layers: small.layers, experts: small.experts, residentBytes: sizes, storedBytes: sizes },
  ranks: rankSpecs({ ranks: 16, slotsTotal: 9 * small.layers }),
  load: load(0),
  current: undefined,
};
const primaries = (layers: readonly LayerPlan[]): number[] => layers.flatMap((layer) => layer.hosts.map((row) => row[0] ?? -1));

test("primaries are sharded anew when none were yet, and then every 100 windows, if that makes layers more even", async () => {
  const first = await makePlan(policies.hecate, wide);
  assert.equal(first.resharding, false);
  const at = (windowsSinceReshard: number | undefined) => {
    const { windowsSinceReshard: _, ...rest } = { ...wide, current: first.layers, load: turned };
    return makePlan(policies.hecate, { ...rest, ...(windowsSinceReshard === undefined ? {} : { windowsSinceReshard }) });
  };
  for (const since of [0, 1, reshardEvery - 1]) {
    const { layers, resharding, reason } = await at(since);
    assert.deepEqual(primaries(layers), primaries(first.layers));
    assert.equal(resharding, undefined);
    assert.match(reason, /primaries stay/);
  }
  for (const since of [undefined, reshardEvery, 10 * reshardEvery]) {
    const { layers, resharding } = await at(since);
    assert.notDeepEqual(primaries(layers), primaries(first.layers));
    assert.notEqual(resharding, undefined);
  }
});

test("a sharding that the budget ends goes on in the next plans, and ends", async () => {
  let { layers: current } = await makePlan(policies.hecate, wide);
  const { windowsSinceReshard: _, ...rest } = wide;
  const age = new ReshardAge();
  const steps: boolean[] = [];
  for (let window = 0; window < 40 && steps.at(-1) !== false; window++) {
    const made = await makePlan(policies.hecate, {
      ...rest,
      current,
      load: turned,
      budget: { ...unlimited, maxMoves: 60 },
      ...age.input(window),
    });
    age.planned(window, made);
    steps.push(made.resharding ?? assert.fail("it stopped before it was done"));
    current = made.layers;
  }
  assert.ok(steps.length > 2 && steps.at(-1) === false, `${steps}`);
  assert.deepEqual(age.input(1000), { windowsSinceReshard: 1000 - (steps.length - 1) });
  age.forget();
  assert.deepEqual(age.input(1000), {});
});

test("over a trace primaries stay where they were sharded, unless they may move in every window", async () => {
  const windows: number[][] = [];
  const run = (reshardAlways: boolean) =>
    simulate({
      ...{ trace: small, policy: policies.hecate, ranks: 16, slotsTotal: 9 * small.layers, reshardAlways, now: () => 0 },
      onWindow: (_, layers) => void windows.push(primaries(layers)),
    });
  await run(false);
  assert.ok(windows.length === 7 && windows.every((each) => each.join() === windows[0]?.join()));
  windows.length = 0;
  await run(true);
  assert.ok(windows.some((each) => each.join() !== windows[0]?.join()));
});

test("with measured times a trace is balanced at least as well as with the assumed overlap, in the expert replicas that hide", async () => {
  const run = async (more: object) => {
    const results = await simulate({
      trace: small,
      policy: policies.hecate,
      ranks: 16,
      slotsTotal: 9 * small.layers,
      now: () => 0,
      ...more,
    });
    return results.reduce((sum, { next }) => sum + (next?.optimal.balance ?? 0), 0) / 6;
  };
  const assumed = await run({});
  const measured = await run({ timing: { denseSeconds: 1, expertSeconds: 1, bytesPerSecond: 12 } });
  assert.ok(measured >= assumed - 0.005, `${measured} against ${assumed}`);
});

/** Those of rank 0 are warmer than the others. */
const lopsided = (warm: number): Float64Array => Float64Array.from({ length: 16 }, (_, e) => (e % 4 === 0 ? warm : 20));
const paid = { gainPerMove: 1e-3, timing: { ...timing, denseSeconds: 0, expertSeconds: 10 } };

test("a layer whose primaries have become uneven gets expert replicas beyond a quarter of its experts, the hottest of which are elsewhere", async () => {
  const hottest = [1, 2, 3, 5];
  const load = lopsided(35).map((rows, e) => (e % 4 === 0 ? rows : hottest.includes(e) ? 40 : 10));
  const { layers, reason } = await makePlan(policies.hecate, { ...input, ...paid, load });
  assert.match(reason, /materialised 1 layers, primaries stay/);
  const shared = loadByWeights(load, layers[0]?.hosts ?? [], layers[0]?.weights ?? [], 4);
  const worst = imbalance(shared, new Float64Array(4).fill(1));
  assert.ok(worst <= 1.05, `${worst}`);
});

test("a layer that is even but for chance, or would gain no more than chance, keeps its expert replicas", async () => {
  assert.deepEqual(await copied({ ...paid, load: lopsided(21) }), []);
  assert.deepEqual(await copied({ ...paid, load: lopsided(24), noise: Float64Array.of(0.1) }), []);
  assert.notDeepEqual(await copied({ ...paid, load: lopsided(24), noise: Float64Array.of(0.01) }), []);
});
