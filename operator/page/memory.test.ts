import assert from "node:assert/strict";
import { test } from "node:test";
import type { ExpertPlacementStatus } from "../../crds/expert-placement.ts";
import type { PlacementPlan } from "../../crds/plan.ts";
import type { PlacementView, RankLoad } from "../rebalance/status/placement-view.ts";
import { bucketMs, bucketsMax, decisionsMax, deploymentsMax, Memory, movesMax } from "./memory.ts";

const start = 1_700_000_000_000;
const rank = (more: Partial<RankLoad> = {}): RankLoad => {
  return {
    rank: 0,
    pod: "p",
    node: "n",
    zone: undefined,
    state: "active",
    bootId: "b",
    activeRequests: 1,
    queuedTokens: 2,
    served: undefined,
    kv: undefined,
    ...more,
  };
};
const placement = (more: Partial<PlacementView> = {}): PlacementView => {
  return { plan: undefined, underWay: undefined, status: undefined, expected: undefined, experts: 0, ranks: [rank()], ...more };
};
const served = (gaps: number, more: object = {}) => ({
  requests: 0,
  failed: 0,
  gaps,
  gapMicros: 0,
  firstTokens: 0,
  firstTokenMicros: 0,
  ...more,
});
const decision = (reason: string, message: string): ExpertPlacementStatus => ({ decision: { reason, message, numbers: { moves: 1 } } });

function remembering() {
  const memory = new Memory();
  return {
    take: (at: number, more?: Partial<PlacementView>) => memory.take(new Map([["u", placement(more)]]), start + at),
    told: () => memory.of("u"),
  };
}

test("an hour is kept, and no more", () => {
  const { take, told } = remembering();
  for (let n = 0; n < bucketsMax + 100; n++) take(n * bucketMs, { ranks: [rank({ activeRequests: n })] });
  const requests = told()?.series.values.requests ?? [];
  assert.equal(requests.length, bucketsMax);
  assert.deepEqual([requests[0], requests.at(-1)], [100, bucketsMax + 99]);
});

test("what nobody said is a gap and no zero, and so is the time that was missed", () => {
  const { take, told } = remembering();
  take(0);
  take(3 * bucketMs, { ranks: [rank({ activeRequests: undefined, queuedTokens: 0 })] });
  const { values, newest } = told()?.series ?? assert.fail();
  assert.deepEqual(values.requests, [1, undefined, undefined, undefined]);
  assert.deepEqual(values.queuedTokens, [2, undefined, undefined, 0]);
  assert.deepEqual(values.imbalancePercent, [undefined, undefined, undefined, undefined]);
  assert.equal(newest, Math.floor((start + 3 * bucketMs) / bucketMs) * bucketMs);
});

test("a pause of more than the hour leaves nothing of before, and a clock that was set back begins anew", () => {
  const { take, told } = remembering();
  take(0);
  take(2 * bucketsMax * bucketMs);
  const after = told()?.series.values.requests ?? [];
  assert.deepEqual([after.length, after.filter((value) => value !== undefined)], [bucketsMax, [1]]);
  take(0);
  assert.deepEqual(told()?.series.values.requests, [1]);
});

test("tokens a second are told by two samples of one process: a new one counts from its own beginning", () => {
  const { take, told } = remembering();
  take(0, { ranks: [rank({ served: served(100) })] });
  take(bucketMs, { ranks: [rank({ served: served(600) })] });
  take(2 * bucketMs, { ranks: [rank({ served: served(10), bootId: "other" })] });
  take(3 * bucketMs, { ranks: [rank({ served: served(20), bootId: "other" })] });
  assert.deepEqual(told()?.series.values.tokensPerSecond, [undefined, 100, undefined, 2]);
});

test("rates and shares are of what all processes served meanwhile, and unknown where nothing ended", () => {
  const { take, told } = remembering();
  const first = { firstTokens: 4, firstTokenMicros: 4 * 250_000 };
  const two = (a: object, b: object) => ({ ranks: [rank({ served: served(0, a) }), rank({ rank: 1, served: served(0, b) })] });
  take(0, two({ requests: 10, failed: 5 }, {}));
  take(
    bucketMs,
    two({ requests: 13, failed: 6, gaps: 100, gapMicros: 100 * 20_000 }, { requests: 2, gaps: 100, gapMicros: 100 * 40_000, ...first }),
  );
  take(
    2 * bucketMs,
    two({ requests: 13, failed: 6, gaps: 100, gapMicros: 100 * 20_000 }, { requests: 2, gaps: 100, gapMicros: 100 * 40_000, ...first }),
  );
  const { requestsPerSecond, failedPercent, firstTokenMs, gapMs } = told()?.series.values ?? assert.fail();
  assert.deepEqual(requestsPerSecond, [undefined, 1, 0]);
  assert.deepEqual(failedPercent, [undefined, 20, undefined]);
  assert.deepEqual(gapMs, [undefined, 30, undefined]);
  assert.deepEqual(firstTokenMs, [undefined, 250, undefined]);
});

test("the attention cache in use is that of the ranks that say so", () => {
  const { take, told } = remembering();
  take(0);
  take(bucketMs, { ranks: [rank({ kv: { blocks: 100, used: 30 } }), rank({ kv: { blocks: 300, used: 70 } }), rank()] });
  assert.deepEqual(told()?.series.values.kvUsePercent, [undefined, 25]);
});

test("a decision is one as long as its reason holds, waiting between plans is none, and the oldest go", () => {
  const { take, told } = remembering();
  take(0, { status: decision("Balanced", "104%") });
  take(bucketMs, { status: decision("Interval", "5 s") });
  take(2 * bucketMs, { status: decision("Balanced", "105%") });
  const [only, ...more] = told()?.decisions ?? [];
  assert.deepEqual([only?.at, only?.times, only?.message, more], [start, 2, "105%", []]);
  for (let n = 3; n < 100; n++) take(n * bucketMs, { status: decision(`R${n}`, "m") });
  const all = told()?.decisions ?? [];
  assert.deepEqual([all.length, all[0]?.reason], [decisionsMax, "R99"]);
});

const plan = (epoch: number, hosts: number[][], modelDigest = "d"): PlacementPlan => {
  const weights = hosts.map((row) => row.map(() => 1000 / row.length));
  return { deploymentUid: "u", epoch, parentEpoch: epoch - 1, planHash: "", modelDigest, layers: [{ layer: 3, epoch, hosts, weights }] };
};

test("moves are those between two committed plans of one model; the first plan is none", () => {
  const { take, told } = remembering();
  take(0, { plan: plan(1, [[0], [1]]) });
  assert.deepEqual(told()?.moves, []);
  take(bucketMs, { plan: plan(2, [[0, 1], [1]]) });
  assert.deepEqual(told()?.moves, [{ at: start + bucketMs, epoch: 2, layer: 3, expert: 0, rank: 1, from: [0] }]);
  take(2 * bucketMs, { plan: plan(3, [[2], [2]], "other") });
  assert.equal(told()?.moves.length, 1);
  take(3 * bucketMs, {
    plan: plan(
      4,
      Array.from({ length: 200 }, () => [5]),
      "other",
    ),
  });
  assert.equal(told()?.moves.length, movesMax);
});

test("so many deployments are remembered, and one that is gone is forgotten", () => {
  const memory = new Memory();
  const all = Array.from({ length: deploymentsMax + 1 }, (_, n) => [`u${n}`, placement()] as const);
  memory.take(new Map(all), start);
  assert.ok(memory.of("u0") && !memory.of(`u${deploymentsMax}`));
  assert.equal(memory.latest("u1")?.requests, 1);
  memory.take(new Map(all.slice(1)), start + bucketMs);
  assert.deepEqual([memory.of("u0"), memory.latest("u0")], [undefined, undefined]);
  memory.take(new Map(all.slice(1)), start + 2 * bucketMs);
  assert.ok(memory.of(`u${deploymentsMax}`), "there is room now");
});
