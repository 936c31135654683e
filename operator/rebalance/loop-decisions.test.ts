import assert from "node:assert/strict";
import { test } from "node:test";
import { peers } from "../../test/peers/index.ts";
import { SimCluster } from "../../test/sim/cluster.ts";
import { makePlan, policies } from "../planner/index.ts";
import { inlinePlanner } from "./intents/planner-thread.ts";

const skewed = (layer: number): number[] => Array.from({ length: 8 }, (_, e) => 1000 * 0.55 ** ((e + layer * 3) % 8) + 20);
const fast = { rebalancing: { trigger: { window: "5s", minTokens: 1000 }, interval: "5s" } };

async function up(options: ConstructorParameters<typeof SimCluster>[0] = {}): Promise<SimCluster> {
  const sim = new SimCluster(options);
  sim.demand = skewed;
  sim.startOperator();
  assert.ok(await sim.clock.run(30_000, () => sim.converged()), "the first plan is committed");
  return sim;
}

const held = (sim: SimCluster): string[] =>
  sim.events.filter(({ reason }) => reason === "RebalanceHeld").map(({ message }) => message.split(":")[0] ?? "");

test("why nothing moves is told when the reason changes, with its numbers, and not in every window", async () => {
  const sim = await up({ spec: fast });
  await sim.clock.run(120_000);
  const before = held(sim);
  assert.equal(before.at(-1), "Balanced");
  assert.equal(new Set(before).size, before.length, `each once: ${before}`);
  sim.nats.status.connected = false;
  await sim.clock.run(60_000);
  assert.deepEqual(held(sim), [...before, "TelemetryUnavailable"]);
  const message = sim.events.find(({ message }) => message.startsWith("Balanced"))?.message;
  assert.match(message ?? "", /worst layer at 1\d\d%, trigger 110%/);
});

test("the status has every number of the decision by name, and how the load is forecast", async () => {
  const sim = await up({ spec: fast });
  assert.ok(await sim.clock.run(60_000, () => sim.stored?.status.decision?.reason === "Balanced"));
  await sim.clock.run(65_000); // figures alone are written once a minute
  const { decision, forecast } = sim.stored?.status ?? {};
  assert.deepEqual(Object.keys(decision?.numbers ?? {}), ["imbalancePercent", "triggerPercent"]);
  assert.equal(decision?.numbers?.triggerPercent, 110);
  assert.ok((forecast?.windows ?? 0) >= 3 && forecast?.changed === false, JSON.stringify(forecast));
  assert.ok((forecast?.errorPermille ?? 1000) < 20 && (forecast?.newestWeightPercent ?? 0) > 0, JSON.stringify(forecast));
});

test("a plan that cannot be made is a decision with its reason, an event and a count, and goes on being tried", async () => {
  const sim = await up({
    shape: { layers: 8, experts: 128, budgetBytes: 100_000 },
    spec: { rebalancing: { ...fast.rebalancing, policy: "hecate" } },
    planner: { ...inlinePlanner, plan: (policy, input) => makePlan(policy === "hecate" ? peers.exact : policies[policy], input) },
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
