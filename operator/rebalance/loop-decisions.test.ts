import assert from "node:assert/strict";
import { test } from "node:test";
import type { PlacementPlan } from "../../crds/plan.ts";
import { peers } from "../../test/peers/index.ts";
import { SimCluster } from "../../test/sim/cluster.ts";
import { converged, fast, skewed } from "../../test/sim/converged.ts";
import { makePlan } from "../planner/index.ts";
import type { RankSpec } from "../planner/policy.ts";
import { done } from "./intents/attempts.ts";
import { intents } from "./intents/index.ts";
import type { Intent } from "./intents/intent.ts";
import { inlinePlanner } from "./intents/planner-thread.ts";
import { chooseIntent, suspended } from "./loop.ts";
import type { LoopPorts } from "./loop-ports.ts";
import type { Observed, RankView } from "./observed.ts";

const held = (sim: SimCluster): string[] =>
  sim.events.filter(({ reason }) => reason === "RebalanceHeld").map(({ message }) => message.split(":")[0] ?? "");

test("why nothing moves is told when the reason changes, with its numbers, and not in every window", async (t) => {
  const sim = await converged(t, { spec: fast });
  await sim.clock.run(120_000);
  const before = held(sim);
  assert.equal(before.at(-1), "Balanced");
  assert.equal(new Set(before).size, before.length, `each once: ${before}`);
  sim.silent = true;
  await sim.clock.run(60_000);
  assert.deepEqual(held(sim).slice(before.length), ["PartialRanks", "TelemetryStale"]);
  const message = sim.events.find(({ message }) => message.startsWith("Balanced"))?.message;
  assert.match(message ?? "", /worst layer at 1\d\d%, trigger 110%/);
});

test("the status has every number of the decision by name, and how the load is forecast", async (t) => {
  const sim = await converged(t, { spec: fast });
  assert.ok(await sim.clock.run(60_000, () => sim.stored?.status.decision?.reason === "Balanced"));
  await sim.clock.run(65_000); // figures alone are written once a minute
  const { decision, forecast } = sim.stored?.status ?? {};
  assert.deepEqual(Object.keys(decision?.numbers ?? {}), ["imbalancePercent", "triggerPercent"]);
  assert.equal(decision?.numbers?.triggerPercent, 110);
  assert.ok((forecast?.windows ?? 0) >= 3 && forecast?.changed === false, JSON.stringify(forecast));
  assert.ok((forecast?.errorPermille ?? 1000) < 20 && (forecast?.newestWeightPercent ?? 0) > 0, JSON.stringify(forecast));
});

test("a plan that cannot be made is a decision with its reason, an event and a count, and goes on being tried", async (t) => {
  const sim = await converged(t, {
    shape: { layers: 8, experts: 128, budgetBytes: 100_000 },
    spec: { rebalancing: { ...fast.rebalancing, policy: "hecate" } },
    planner: {
      ...inlinePlanner,
      plan: (policy, input) => (policy === "hecate" ? makePlan(peers.exact, input) : inlinePlanner.plan(policy, input)),
    },
  });
  sim.demand = () => Array.from({ length: 128 }, (_, e) => (e % 3 === 0 ? 600 : 20));
  assert.ok(await sim.clock.run(60_000, () => sim.stored?.status.decision?.reason === "PlanFailed"));
  const { decision } = sim.stored?.status ?? {};
  assert.match(decision?.message ?? "", /^balance: PolicyTooSmall: policy exact is for small instances/);
  assert.ok((decision?.numbers?.imbalancePercent ?? 0) > 110, "what asked for a plan");
  const failed = sim.counted("enodia_rebalances_total").filter(({ result }) => result === "failed");
  assert.ok(failed.length >= 1 && failed.every(({ reason }) => reason === "PolicyTooSmall"), JSON.stringify(failed));
  const [event] = sim.events.filter(({ reason }) => reason === "PlanFailed");
  assert.equal(event?.type, "Warning");
  assert.equal(event?.message, decision?.message);
  assert.equal(sim.loop?.view()?.placementBalanced.reason, "PolicyTooSmall");
  sim.respec(fast);
  assert.ok(await sim.clock.run(60_000, () => (sim.plan()?.epoch ?? 0) > 1), "another policy makes the plan");
});

test("right after a change of load a plan may move twice the default, unless somebody has set a cap", async () => {
  const shape = { experts: 128, budgetBytes: 30_000 };
  const before = (layer: number): number[] => Array.from({ length: 128 }, (_, e) => (e % 3 === layer % 3 ? 600 : 20));
  const later = (layer: number): number[] => Array.from({ length: 128 }, (_, e) => (e % 3 === (layer + 1) % 3 ? 600 : 20));
  const most = async (budget: object): Promise<number> => {
    const sim = new SimCluster({ shape, spec: { rebalancing: { ...fast.rebalancing, budget } } });
    sim.demand = before;
    sim.startOperator();
    await sim.clock.run(180_000);
    const seen = sim.events.length;
    sim.demand = later;
    await sim.clock.run(60_000);
    const moves = sim.events.slice(seen).map(({ message }) => Number(/^epoch \d+, (\d+) moves/.exec(message)?.[1] ?? 0));
    return Math.max(...moves);
  };
  const [free, capped] = [await most({}), await most({ maxMoves: 64 })];
  assert.ok(free > 64 && free <= 128, `${free}`);
  assert.ok(capped > 32 && capped <= 64, `${capped}`);
});

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

interface Recorded {
  readonly name: string;
  readonly parent: string | undefined;
  readonly traceparent: string;
  readonly attributes: Record<string, unknown>;
  failed: boolean;
  ends: number;
}

/** Keeps every span that is begun. */
function recorder(): { readonly spans: Recorded[]; readonly tracing: LoopPorts["tracing"] } {
  const spans: Recorded[] = [];
  const tracing: LoopPorts["tracing"] = {
    start: (name, { parent, attributes } = {}) => {
      const id = String(spans.length + 1).padStart(16, "0");
      const traceId = parent ? (parent.split("-")[1] ?? "") : id.repeat(2);
      const span: Recorded = { name, parent, traceparent: `00-${traceId}-${id}-01`, attributes: { ...attributes }, failed: false, ends: 0 };
      spans.push(span);
      return {
        ...{ traceparent: span.traceparent, traceId, event: () => {} },
        set: (more) => void Object.assign(span.attributes, more),
        fail: () => {
          span.failed = true;
        },
        end: () => {
          span.ends++;
        },
      };
    },
  };
  return { spans, tracing };
}

test("an attempt, its plan, its rollout and the calls to ranks are one trace, and every span ends once", async () => {
  const { spans, tracing } = recorder();
  const sim = new SimCluster({ spec: fast, tracing });
  sim.demand = skewed;
  sim.startOperator();
  await sim.clock.run(60_000);
  assert.deepEqual(sim.faults(), []);
  const named = (name: string): Recorded[] => spans.filter((span) => span.name === name);
  const parentOf = ({ parent }: Recorded) => spans.find(({ traceparent }) => traceparent === parent);

  assert.ok(named("operator.rollout").length >= 2, "the first plan, and one for balance");
  for (const rollout of named("operator.rollout")) {
    assert.equal(rollout.attributes["enodia.outcome"], "committed");
    const attempt = parentOf(rollout);
    assert.equal(attempt?.parent, undefined, "an attempt begins a trace");
    assert.equal(attempt?.attributes["enodia.namespace"], "ns");
    assert.match(attempt?.name ?? "", /^operator\.(first|balance)$/);
  }
  for (const call of ["prepare", "commit", "release"]) {
    const calls = named(`operator.${call}`);
    assert.ok(calls.every((span) => parentOf(span)?.name === "operator.rollout"));
    assert.deepEqual([...new Set(calls.map(({ attributes }) => attributes["enodia.rank"]))].sort(), [0, 1, 2]);
  }
  assert.ok(named("operator.plan").length > 0);
  assert.ok(named("operator.plan").every((span) => /^operator\.(first|balance)$/.test(parentOf(span)?.name ?? "")));
  const rolledOut = new Set(named("operator.rollout").map(parentOf));
  const held = named("operator.balance").filter((span) => !rolledOut.has(span));
  assert.ok(held.length > 0, "windows without a plan are told too");
  assert.ok(held.every(({ attributes }) => attributes["enodia.end"] === "done"));
  assert.deepEqual(
    spans.filter(({ ends, failed }) => ends !== 1 || failed).map(({ name }) => name),
    [],
  );
});
