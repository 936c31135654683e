// From windows of load to the condition: what ranks with half of the memory load for tokens, foreseen and measured.
import assert from "node:assert/strict";
import { test } from "node:test";
import { deployment } from "../../../test/kit/deployment/deployment.ts";
import { modelShape, planInput, rankSpec } from "../../../test/kit/planner/plan-input.ts";
import { firstPlan } from "../../planner/repair.ts";
import { servedBudgets } from "../../planner/served.ts";
import { TierLoads } from "../load/tier-loads.ts";
import { expertsOversubscribed, oversubscribedFigures } from "./oversubscribed.ts";

const Mi = 2 ** 20;
const shape = modelShape(4, 16, Mi);
const ranks = servedBudgets(
  shape,
  [0, 1].map((rank) => rankSpec(rank, { budgetBytes: 17 * Mi })),
);
const input = planInput(shape, ranks);
const planned = { ...input, current: firstPlan(input) };
const perLayer = new Float64Array(4).fill(2_000);
const world = (oversubscription: string, more: object = {}) => ({
  spec: deployment({ experts: { memoryPerRank: "17Mi", oversubscription, ...more } }).spec,
});
/** Of two ranks; rank 1 takes `slower` times as long for as many bytes. */
const misses = (slower = 1) =>
  new Map([1, slower].map((times, rank) => [rank, { loads: 2_250, bytes: 2_250 * Mi, micros: 4_500_000 * times }]));
const views = [{ state: "active" }, { state: "lost" }] as const;

test("the condition has what is foreseen, then how long it takes, then what was measured", () => {
  const loads = new TierLoads();
  const verdict = () => expertsOversubscribed({ world: world("Allow"), load: { tiers: loads.look(planned, 2) }, epoch: 1, views });
  const foreseen = verdict();
  assert.equal(`${foreseen?.status} ${foreseen?.reason}`, "True Oversubscribed");
  // Every expert is as hot as another: half of the choices but what the slot keeps.
  assert.match(
    foreseen?.message ?? "",
    /ranks have 34Mi for 64Mi of experts, and 32 of 64 stay there; predicted to be loaded: 47% of choices/,
  );
  assert.match(foreseen?.message ?? "", /how long that takes is not known before experts were loaded; raise memoryPerRank/);
  loads.observe({ perLayer, misses: misses() }, 2);
  assert.match(
    verdict()?.message ?? "",
    /3\.8 experts .* a token, at most 3\.[78] ms of loads at a rank and \S+ ms of waiting, at 500Mi\/s; measured: 4\.5 experts a token, at most 4\.5 ms of/,
  );
  loads.restart();
  assert.match(verdict()?.message ?? "", /at 500Mi\/s; raise/, "another plan is measured anew, at the rate that is known");
});

test("one slow disk is seen: the rank that loads longest is measured, beside what it would load as fast as the others", () => {
  const times = (slower: number) => {
    const loads = new TierLoads();
    loads.observe({ perLayer, misses: misses(slower) }, 2);
    const { forecast, measured } = loads.look(planned, 2) ?? {};
    assert.deepEqual(
      [...(measured?.bytes ?? [])],
      [0, 1].map((rank) => [rank, 2.25 * Mi]),
    );
    return (measured?.loadSeconds ?? 0) / (forecast?.loadSeconds ?? 0);
  };
  assert.ok(times(1) < 1.3 && times(2) > 2, `${times(1)}, ${times(2)}`);
});

test("expert replicas that memory does not hold are said to be left out", () => {
  const load = { tiers: new TierLoads().look(planned, 2) };
  const { message } = expertsOversubscribed({ world: world("Allow", { minExpertReplicas: 2 }), load, epoch: 1, views }) ?? {};
  assert.match(message ?? "", /; minExpertReplicas 2 is not kept below 128Mi; raise memoryPerRank/);
});

test("windows without a report, and tokens too few, measure nothing", () => {
  const loads = new TierLoads();
  loads.observe({ perLayer }, 2);
  loads.observe({ perLayer: new Float64Array(4).fill(20), misses: new Map([[0, { loads: 9, bytes: 9, micros: 9 }]]) }, 2);
  const { measured, bytesPerSecond } = loads.look(planned, 2) ?? {};
  assert.deepEqual([measured, bytesPerSecond], [undefined, undefined]);
});

test("without oversubscription there is no condition; where memory suffices it is False, and Unknown before that can be known", () => {
  const known = { world: world("Allow"), load: {}, epoch: 3, views };
  assert.equal(expertsOversubscribed({ ...known, world: world("Never") }), undefined);
  assert.equal(expertsOversubscribed(known)?.reason, "FitsInMemory");
  for (const less of [{ load: undefined }, { epoch: undefined }, { views: [{ state: "joining" }] as const }, { views: [] }])
    assert.equal(expertsOversubscribed({ ...known, ...less })?.status, "Unknown", JSON.stringify(less));
});

test("figures that are not known have no series", () => {
  assert.ok(oversubscribedFigures().every(({ value }) => value === undefined));
  const known = oversubscribedFigures(new TierLoads().look(planned, 2)).filter(({ value }) => value !== undefined);
  assert.deepEqual(
    known.map(({ name, kind }) => `${name} ${kind}`),
    ["enodia_expert_miss_loads_ratio predicted"],
  );
});
