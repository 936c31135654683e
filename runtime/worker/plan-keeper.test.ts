// The plan keeper over the production materializer: calls that end before others, memory without room, and what the engine is told.
// Made up are the engine (it takes everything) and the transfers (they come when the test lets them).

import assert from "node:assert/strict";
import { test } from "node:test";
import type { LayerPlacement, PlacementPlan } from "../../crds/plan.ts";
import { until } from "../../test/kit/wait.ts";

import { VirtualClock } from "../../test/sim/clock.ts";
import type { RoutingTables } from "../engine/engine.ts";
import { Materializer } from "../experts/memory/materializer.ts";
import { ResidentSet, type Victim } from "../experts/memory/resident-set.ts";
import type { TierRequest } from "../experts/memory/tier.ts";
import { TransferPace } from "../experts/memory/transfer-pace.ts";
import type { Member } from "../net/mapping.ts";
import { silentLog } from "../observe/log.ts";
import { PlanKeeper, type PrepareOutcome } from "./plan-keeper.ts";
import { PlanState } from "./plan-state.ts";

const [deploymentUid, modelDigest] = ["d", "digest"];

/** Two layers of two experts at one rank; transfers come in until there are `allowed` of them. */
function keeper(capacity = 4, now = () => performance.now(), rank = 0) {
  const tables: RoutingTables[] = [];
  const fetched: string[] = [];
  const members: Member[] = [];
  const self = {
    ...{ allowed: Number.POSITIVE_INFINITY, fetched, tables, away: new Set<number>(), ended: false },
    ...{ members, changed: () => {} },
  };
  const state = new PlanState({ deploymentUid, modelDigest, rank, layers: 2, experts: 2 });
  const read = async ({ layer, expert, signal }: TierRequest) => {
    while (fetched.length >= self.allowed && !signal.aborted) await new Promise((resolve) => setTimeout(resolve, 5));
    signal.throwIfAborted();
    fetched.push(`${layer}.${expert}`);
    return { unit: new Uint8Array(8), source: "store" as const, seconds: 0.5 };
  };
  const residents = new ResidentSet({ budgetBytes: capacity, bytesOf: () => 1, now });
  const plan = new PlanKeeper({
    ...{ state, layers: 2, log: silentLog, metrics: { add: () => {} }, onChange: () => {} },
    engine: { setRouting: async (next) => void tables.push(next), setDown: async () => {} },
    materializer: new Materializer({
      device: { load: async () => {}, unload: async () => assert.ok(!self.ended, "the engine has ended") },
      ...{ residents, tiers: { read }, storedBytes: () => 8, pace: new TransferPace({ onChange: () => {} }), log: silentLog },
    }),
    peers: {
      self: { deploymentUid, rank, podUid: "u", bootId: "b" },
      get membership() {
        return { version: 1, members: self.members };
      },
      onChange: (listener) => {
        self.changed = listener;
        return () => {};
      },
      down: () => new Set(),
      member: (other) => ({ rank: other, podName: "p", podUid: "u", bootId: "b", address: "a", state: "active" }),
      usable: (other) => !self.away.has(other),
    },
  });
  return Object.assign(self, { plan, state, residents });
}

/** `hosts[layer]` = the rank of each of the two experts; undefined leaves the layer out. */
function planOf(epoch: number, hosts: readonly (readonly [number, number] | undefined)[]): PlacementPlan {
  const layers = hosts.flatMap((row, layer): LayerPlacement[] =>
    row === undefined ? [] : [{ layer, epoch, hosts: row.map((rank) => [rank]), weights: [[1000], [1000]] }],
  );
  return { deploymentUid, modelDigest, epoch, parentEpoch: epoch - 1, planHash: `h${epoch}`, layers };
}
const collect = (outcomes: PrepareOutcome[]) => (outcome: PrepareOutcome) => void outcomes.push(outcome);
const said = (outcomes: readonly PrepareOutcome[]) =>
  outcomes.map((outcome) => `${outcome.layer} ${outcome.type === "ready" ? "ready" : outcome.error.code}`);

test("the deadline of one Prepare leaves a later one of the same epoch alone", async () => {
  const self = keeper();
  self.allowed = 0;
  const plan = planOf(1, [[0, 0]]);
  const [first, second]: PrepareOutcome[][] = [[], []];
  const early = self.plan.prepare(plan, { withinMs: 100 }, collect(first!));
  const later = self.plan.prepare(plan, { withinMs: 60_000 }, collect(second!));
  await early;
  assert.deepEqual(said(first!), ["0 DeadlineExceeded"]);
  assert.equal(self.state.phase(0), "preparing");
  self.allowed = 2;
  await later;
  assert.deepEqual(said(second!), ["0 ready"]);
  assert.equal(self.state.phase(0), "ready");
});

test("when the caller leaves loading stops, and the next Prepare of the epoch fetches only the rest", async () => {
  const self = keeper();
  const plan = planOf(1, [
    [0, 0],
    [0, 0],
  ]);
  const left = new AbortController();
  self.allowed = 2;
  const running = self.plan.prepare(plan, { left: left.signal }, () => {});
  await until(
    "half of it is there",
    () => self.residents.isResident({ layer: 0, expert: 0 }) && self.residents.isResident({ layer: 0, expert: 1 }),
  );
  left.abort();
  await running;
  assert.equal(self.state.phase(1), "preparing");
  self.allowed = 4;
  const outcomes: PrepareOutcome[] = [];
  await self.plan.prepare(plan, {}, collect(outcomes));
  assert.deepEqual(said(outcomes).sort(), ["0 ready", "1 ready"]);
  assert.equal(new Set(self.fetched).size, self.fetched.length, "nothing was fetched twice");
});

test("a layer that is ready says what came for it from whom, and in how long", async () => {
  const self = keeper();
  const outcomes: PrepareOutcome[] = [];
  await self.plan.prepare(planOf(1, [[0, 0]]), {}, collect(outcomes));
  assert.deepEqual(outcomes, [{ type: "ready", layer: 0, bytes: 16, fetched: [{ source: "store", bytes: 16, seconds: 1 }] }]);
});

test("an aborted layer gives up its wait for room", async () => {
  const self = keeper(1);
  const outcomes: PrepareOutcome[] = [];
  const running = self.plan.prepare(planOf(1, [[0, 0]]), {}, collect(outcomes));
  await until(
    "one of the two is in memory",
    () => self.residents.isResident({ layer: 0, expert: 0 }) || self.residents.isResident({ layer: 0, expert: 1 }),
  );
  await self.plan.abort(1, [0]);
  await running;
  assert.deepEqual(said(outcomes), ["0 Aborted"]);
  assert.equal(self.residents.count, 0);
});

test("a planned expert without room is the reason for not being ready, and is given up when the plan goes on", async () => {
  const self = keeper(2);
  await self.plan.adopt(
    planOf(1, [
      [0, 0],
      [0, 1],
    ]),
  );
  await until("the reason is named", () => /memory is full: 2 experts fit/.test(self.plan.notReady() ?? ""));
  await self.plan.adopt(planOf(2, [undefined, [1, 1]]));
  await until("it is ready", () => self.plan.notReady() === undefined);
  assert.deepEqual(self.fetched.sort(), ["0.0", "0.1"]);
  self.plan.close();
});

test("a commit tells the engine the layers that it changed, and no others", async () => {
  const self = keeper();
  for (const plan of [
    planOf(1, [
      [0, 1],
      [0, 1],
    ]),
    planOf(2, [undefined, [1, 0]]),
  ]) {
    await self.plan.prepare(plan, {}, () => {});
    assert.equal((await self.plan.commit(plan)).refused, "");
  }
  assert.deepEqual(
    self.tables.map(({ rank, layers }) => ({ rank, layers: layers.map(({ layer, epoch }) => [layer, epoch]) })),
    [
      {
        rank: 0,
        layers: [
          [0, 1],
          [1, 1],
        ],
      },
      { rank: 0, layers: [[1, 2]] },
    ],
  );
  self.plan.close();
});

test("the end of an adoption frees nothing of a commit that came meanwhile: that waits for its Release", async () => {
  const clock = new VirtualClock();
  const self = keeper();
  clock.after(0, () => void self.plan.adopt(planOf(1, [[0, 0]])));
  await clock.run(1_000);
  const next = planOf(2, [[0, 1]]);
  clock.after(0, () => void self.plan.prepare(next, {}, () => {}).then(() => self.plan.commit(next)));
  await clock.run(10_000);
  assert.equal(self.state.phase(0), "drained");
  assert.ok(self.residents.isResident({ layer: 0, expert: 1 }), "other sources may still route to it");
  clock.after(0, () => void self.plan.release(2, [0]));
  await clock.run(100);
  assert.ok(!self.residents.isResident({ layer: 0, expert: 1 }));
  self.plan.close();
});

test("an expert replica that another rank keeps gives way, and comes back when what took its place is no longer used", async () => {
  const clock = new VirtualClock();
  const self = keeper(4, () => clock.now());
  clock.after(0, () => void self.plan.adopt(everywhere([0, 1])));
  await clock.run(1_000);
  const { may, done } = self.plan.giveWay;
  const admitted = self.residents.admit({ layer: 2, expert: 0 }, "staged", may);
  assert.ok(admitted.action === "evict" && admitted.victims[0]?.kind === "planned");
  const [{ layer, expert }] = admitted.victims as [Victim];
  clock.after(0, () => done(layer, expert));
  await clock.run(100);
  self.residents.takeOver(admitted.victims, { layer: 2, expert: 0 });
  self.residents.loaded({ layer: 2, expert: 0 });
  for (let i = 0; i < 4; i++) {
    assert.ok(self.residents.lease({ layer: 2, expert: 0 }));
    self.residents.unlease({ layer: 2, expert: 0 });
    await clock.run(6_000);
    assert.ok(!self.residents.isResident({ layer, expert }), "its place is in use");
  }
  await clock.run(20_000);
  assert.ok(self.residents.isResident({ layer, expert }));
  self.plan.close();
});

/** Two layers of two experts, every expert on these ranks. */
const everywhere = (ranks: number[]): PlacementPlan => ({
  ...planOf(1, []),
  layers: [0, 1].map((layer) => ({
    ...{ layer, epoch: 1, hosts: [ranks, ranks.toReversed()] },
    weights: [0, 1].map(() => ranks.map((_, i) => Math.floor(1000 / ranks.length) + (i === 0 ? 1000 % ranks.length : 0))),
  })),
});

test("of an expert's hosts one keeps it, whichever ask, and the same one when another is gone or not seen by all", async () => {
  const ranks = [0, 1, 2];
  const keepersOf = async (layer: number, expert: number, away: (rank: number) => number[]): Promise<number[]> => {
    const keeps = await Promise.all(
      ranks.map(async (rank) => {
        const self = keeper(4, () => 0, rank);
        await self.plan.adopt(everywhere(ranks));
        for (const other of away(rank)) self.away.add(other);
        const may = self.plan.giveWay.may(layer, expert);
        self.plan.close();
        return may ? [] : [rank];
      }),
    );
    return keeps.flat();
  };
  for (const [layer, expert] of [
    [0, 0],
    [0, 1],
    [1, 0],
    [1, 1],
  ] as const) {
    const [one, ...more] = await keepersOf(layer, expert, () => []);
    assert.deepEqual(more, []);
    for (const gone of ranks.filter((rank) => rank !== one)) {
      assert.deepEqual(await keepersOf(layer, expert, (rank) => (rank === gone ? [] : [gone])), [one], `without rank ${gone}`);
      assert.ok((await keepersOf(layer, expert, (rank) => (rank === one ? [gone] : []))).includes(one ?? -1), "seen by one rank only");
    }
  }
});

test("the only live host keeps its expert replica, a parent's expert replica stays until its release, and what is prepared counts as what is committed", async () => {
  for (const rank of [0, 1]) {
    const self = keeper(4, () => 0, rank);
    await self.plan.adopt(everywhere([0, 1]));
    const may = (expert: number) => self.plan.giveWay.may(0, expert);
    const expert = [0, 1].find(may);
    if (expert !== undefined) {
      self.away.add(1 - rank);
      assert.ok(!may(expert), "the other host is not there");
      self.away.clear();
      const alone = { layer: 0, epoch: 2, hosts: [[rank], [rank]], weights: [[1000], [1000]] };
      await self.plan.prepare({ ...planOf(2, []), layers: [alone] }, {}, () => {});
      assert.ok(!may(expert), "it is to be the only host");
      await self.plan.abort(2, []);
      assert.ok(may(expert));
      const other = { layer: 0, epoch: 3, hosts: [[1 - rank], [1 - rank]], weights: [[1000], [1000]] };
      await self.plan.prepare({ ...planOf(3, []), layers: [other] }, {}, () => {});
      await self.plan.commit({ ...planOf(3, []), layers: [other] });
      assert.ok(!may(expert), "sources of the parent may still route to it");
    }
    self.plan.close();
  }
});

test("an expert replica that gave way is taken back when the rank that kept it is gone, while what took its place is still used", async () => {
  const clock = new VirtualClock();
  for (const rank of [0, 1]) {
    const self = keeper(4, () => clock.now(), rank);
    clock.after(0, () => void self.plan.adopt(everywhere([0, 1])));
    await clock.run(1_000);
    const { may, done } = self.plan.giveWay;
    const admitted = self.residents.admit({ layer: 2, expert: 0 }, "staged", may);
    if (admitted.action === "evict" && admitted.victims[0]?.kind === "planned") {
      const [{ layer, expert }] = admitted.victims as [Victim];
      clock.after(0, () => done(layer, expert));
      await clock.run(100);
      self.residents.takeOver(admitted.victims, { layer: 2, expert: 0 });
      self.residents.loaded({ layer: 2, expert: 0 });
      assert.ok(self.plan.giveWay.isAway(layer, expert));
      self.away.add(1 - rank);
      assert.ok(!self.plan.giveWay.isAway(layer, expert));
    }
    self.plan.close();
  }
});

test("an engine that has ended when a plan's expert replicas are to be freed ends no process", async () => {
  const clock = new VirtualClock();
  const self = keeper(4, () => clock.now());
  const crashes: unknown[] = [];
  const crash = (error: unknown) => void crashes.push(error);
  process.on("unhandledRejection", crash);
  try {
    clock.after(
      0,
      () =>
        void self.plan.adopt(
          planOf(1, [
            [0, 0],
            [0, 0],
          ]),
        ),
    );
    clock.after(
      1_000,
      () =>
        void self.plan.adopt(
          planOf(2, [
            [1, 1],
            [0, 0],
          ]),
        ),
    );
    await clock.run(2_000);
    assert.equal(self.residents.count, 4);
    self.ended = true;
    await clock.run(10_000);
    assert.deepEqual(crashes, []);
    assert.equal(self.state.phase(0), "idle", "it was released");
  } finally {
    process.off("unhandledRejection", crash);
  }
});

test("tables keep tokens on the rank as far as the plan allows, by the ranks that serve", async () => {
  const self = keeper();
  const member = (rank: number, state: Member["state"]): Member => ({ rank, podName: "p", podUid: "u", bootId: "b", address: "a", state });
  const say = async (...states: Member["state"][]) => {
    self.members.splice(0, Infinity, ...states.map((state, rank) => member(rank, state)));
    const before = self.tables.length;
    self.changed();
    await new Promise((resolve) => setImmediate(resolve));
    return self.tables.slice(before).map(({ layers }) => layers.map(({ layer, weights }) => [layer, weights[0]]));
  };
  const both = { ...planOf(1, [[0, 0]]), layers: [{ layer: 0, epoch: 1, hosts: [[0, 1], [0]], weights: [[400, 600], [1000]] }] };
  await self.plan.prepare(both, {}, () => {});
  await self.plan.commit(both);
  assert.deepEqual(self.tables.at(-1)?.layers[0]?.weights, [[400, 600], [1000]], "as the plan says");
  assert.deepEqual(await say("active", "active"), [[[0, [800, 200]]]]);
  assert.deepEqual(await say("active", "active"), [], "the same again");
  assert.deepEqual(await say("active", "active", "active"), [[[0, [1000, 0]]]], "a third of the tokens comes from here");
  assert.deepEqual(await say("active", "draining", "joining"), [[[0, [400, 600]]]], "all tokens do: as the plan says");
});
