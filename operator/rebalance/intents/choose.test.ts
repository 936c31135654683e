// The order of the intents and when each is wanted, on observations made by hand; what their plans do is shown in loop.test.ts.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { PlacementPlan } from "../../../crds/plan.ts";
import type { RankSpec } from "../../planner/policy.ts";
import type { Observed, RankView } from "../observed.ts";
import { done } from "./attempts.ts";
import { chooseIntent, suspended } from "./choose.ts";
import { intents } from "./index.ts";
import type { Intent } from "./intent.ts";

const why = { reason: "Unavailable", message: "the store does not answer" };
const sizes = new Float64Array(2).fill(1);
const shape = { layers: 1, experts: 2, residentBytes: sizes, storedBytes: sizes };
const plan = { epoch: 1, layers: [{ layer: 0, epoch: 1, hosts: [[0], [1]], weights: [] }] } as unknown as PlacementPlan;
const rank = (number: number, state: RankSpec["state"] = "active"): RankSpec => ({
  ...{ rank: number, speed: 1, budgetBytes: 100, zone: "", node: `n${number}`, state },
});

/** Two ranks with a plan that holds, changed by what a test says. */
function seen(changed: Partial<Observed> = {}): Observed {
  const common = { shape, plan, members: "m", ranks: [rank(0), rank(1)], views: [], placement: { recovered: true }, belowFloor: 0 };
  const world = { desiredRanks: 2 };
  const spec = { suspend: false, experts: { minExpertReplicas: 1 } };
  const more = { gone: new Set(), paused: new Map(), waitedMs: 0 };
  return { ...common, world, spec, ...more, ...changed } as unknown as Observed;
}

const chosen = (observed: Observed) => {
  const { intent, wait } = chooseIntent(observed, intents(), true);
  return intent?.kind ?? wait?.reason;
};

const leaving = [{ rank: 1, usable: true, leaving: { rank: 1, podUid: "u", reason: "Shrink" } }] as unknown as readonly RankView[];
const paused = (...kinds: string[]) => new Map(kinds.map((kind) => [kind, why]));

test("recover, first, repair, drain, fill, protect and balance come in this order, whatever is added", () => {
  const order = ["recover", "first", "repair", "drain", "fill", "protect", "balance"];
  const kinds = intents().map(({ kind }) => kind);
  assert.deepEqual(
    kinds.filter((kind) => order.includes(kind)),
    order,
  );
  assert.equal(new Set(kinds).size, kinds.length, "attempts are kept by kind");
});

test("each intent is wanted for its reason, and what comes before it goes first", () => {
  const changes: Partial<Observed> = { ranks: [rank(0), rank(1, "dead"), rank(2)], gone: new Set([1]), belowFloor: 1 };
  assert.equal(chosen(seen()), "balance");
  assert.equal(chosen(seen({ belowFloor: 1 })), "protect");
  assert.equal(chosen(seen({ belowFloor: 1, ranks: [rank(0), rank(1), rank(2)] })), "fill");
  assert.equal(chosen(seen({ belowFloor: 1, ranks: [rank(0), rank(1, "draining"), rank(2)], views: leaving })), "drain");
  assert.equal(chosen(seen({ ...changes, views: leaving })), "repair");
  assert.equal(chosen(seen({ ...changes, plan: undefined, world: { desiredRanks: 2 } as Observed["world"] })), "first");
  assert.equal(chosen(seen({ ...changes, placement: { recovered: false } as Observed["placement"] })), "recover");
});

test("nothing is planned before workers are known, while one may come back, or while too few are there", () => {
  assert.equal(chosen(seen({ shape: undefined, plan: undefined })), "NoWorker");
  assert.equal(chosen(seen({ ranks: [rank(0), rank(1, "dead")], belowFloor: 1 })), "MembershipUnknown");
  assert.equal(chosen(seen({ plan: undefined, ranks: [rank(0)] })), "WaitingForRanks");
  assert.equal(chosen(seen({ plan: undefined, ranks: [rank(0)], waitedMs: 20_000 })), "first");
  assert.ok(suspended(seen({ world: { desiredRanks: 0 } as Observed["world"] })));
  assert.ok(!suspended(seen()));
});

test("one that pauses does not hold up those after it, unless nothing may be planned without it", () => {
  const lost: Partial<Observed> = { ranks: [rank(0), rank(1, "dead"), rank(2)], gone: new Set([1]) };
  assert.equal(chosen(seen({ ...lost, paused: paused("repair") })), "fill");
  assert.equal(chosen(seen({ ...lost, paused: paused("repair", "fill") })), "balance");
  assert.equal(chosen(seen({ ...lost, paused: paused("repair", "fill", "balance") })), why.reason, "what the last one waits for is said");
  assert.equal(chosen(seen({ plan: undefined, paused: paused("first") })), "first");
  assert.equal(chosen(seen({ placement: { recovered: false } as Observed["placement"], paused: paused("recover") })), "recover");
});

test("a list with one more intent lets it act at its place", () => {
  const surge: Intent = {
    ...{ kind: "surge", cost: "plan", holdsUpOthers: false, onWindow: false },
    wanted: ({ ranks }) => ranks.length > 2,
    make: () => done,
  };
  const [recover, ...rest] = intents();
  const list = [recover!, surge, ...rest];
  assert.equal(chooseIntent(seen({ ranks: [rank(0), rank(1), rank(2)] }), list, true).intent?.kind, "surge");
  assert.equal(chooseIntent(seen(), list, true).intent?.kind, "balance");
});

test("an intent that waits for a window of load does not keep those after it from acting", () => {
  const idle: Intent = { ...{ kind: "idle", cost: "plan", holdsUpOthers: false, onWindow: false }, wanted: () => true, make: () => done };
  const list = [...intents(), idle];
  assert.equal(chooseIntent(seen(), list, false).intent?.kind, "idle");
  assert.equal(chooseIntent(seen(), list, true).intent?.kind, "balance");
  assert.deepEqual(chooseIntent(seen(), intents(), false), {}, "nothing acts, and nothing is said to be waited for");
  assert.equal(chooseIntent(seen({ paused: paused("balance") }), intents(), false).wait?.reason, why.reason);
});
