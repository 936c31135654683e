// The fields of the spec that decide what the rebalance plane does, each with what a simulated cluster does without a change of it and with.

import assert from "node:assert/strict";
import { policyNames } from "../../crds/names.ts";
import { diffPlans } from "../../runtime/placement/diff.ts";
import { SimCluster } from "../sim/cluster.ts";
import { fast, skewed } from "../sim/converged.ts";

/** One change of the spec and what the rebalance plane then does in a simulated cluster, beside what it does without. */
interface RebalancedField {
  /** The fields that both have in common. */
  readonly base?: object;
  readonly change: object;
  readonly outcome: (sim: SimCluster) => Promise<unknown>;
  readonly without: unknown;
  readonly with: unknown;
}

const rebalancing = (fields: object) => ({ rebalancing: { ...fast.rebalancing, ...fields } });
const storyMs = 60_000;

/** The decision of the loop in a minute of skewed load: experts have moved, or the last reason why not. */
async function verdict(sim: SimCluster): Promise<string> {
  await sim.clock.run(storyMs);
  const held = sim.events.filter(({ reason }) => reason === "RebalanceHeld").map(({ message }) => message.split(":")[0] ?? "");
  // Interval says when it looks again, not what it sees.
  return (sim.plan()?.epoch ?? 0) > 1 ? "moved" : (held.findLast((reason) => reason !== "Interval") ?? "nothing said");
}

/** The policy that plans are asked of. */
async function policyAsked(sim: SimCluster): Promise<string> {
  await sim.clock.run(storyMs);
  const started = sim.events.find(({ reason }) => reason === "RebalanceStarted");
  return policyNames.find((name) => started?.message.includes(`${name}:`)) ?? "nobody";
}

/** Tells if plans of one minute moved one expert each, or some of them more. */
async function movesPerPlan(sim: SimCluster): Promise<"one" | "more" | "none"> {
  const moves = new Set<number>();
  await sim.clock.run(storyMs, () => {
    moves.add(sim.loop?.view()?.placement?.lastRebalance?.moves ?? 0);
    return false;
  });
  return Math.max(...moves) > 1 ? "more" : moves.has(1) ? "one" : "none";
}

/** Tells if a plan of the first minute brought one rank more than one expert. */
async function arrivals(sim: SimCluster): Promise<"one" | "more"> {
  let before = sim.plan();
  let most = 0;
  await sim.clock.run(storyMs, () => {
    const plan = sim.plan();
    if (!before || !plan || plan.epoch === before.epoch) return false;
    const onRank = new Map<number, number>();
    for (const { rank } of diffPlans(before.layers, plan.layers, () => 0).moves) onRank.set(rank, (onRank.get(rank) ?? 0) + 1);
    most = Math.max(most, ...onRank.values());
    before = plan;
    return false;
  });
  return most > 1 ? "more" : "one";
}

/** Tells if the first plan for balance took seconds, in a world where an expert is 100 bytes. */
async function pace(sim: SimCluster): Promise<"at once" | "slowly"> {
  const duration = () => sim.loop?.view()?.placement?.lastRebalance?.durationMs;
  assert.ok(await sim.clock.run(10 * storyMs, () => duration() !== undefined));
  return (duration() ?? 0) > 20_000 ? "slowly" : "at once";
}

/** Plans for balance in a minute of which each may move one expert only. */
async function plansInAMinute(sim: SimCluster): Promise<"few" | "many"> {
  await sim.clock.run(storyMs);
  return sim.epochsWritten.length - 1 > storyMs / 30_000 ? "many" : "few";
}

/** Tells if a leaving rank whose request never ends is let go within half a minute. */
async function drained(sim: SimCluster): Promise<string | undefined> {
  const worker = sim.worker(2);
  worker.activeRequests = 1;
  sim.scale(2);
  sim.leaving = [{ rank: 2, podUid: worker.podUid, reason: "Shrink" }];
  sim.refresh();
  await sim.clock.run(30_000);
  return sim.loop?.view()?.drains[0]?.phase;
}

async function silence(sim: SimCluster): Promise<string | undefined> {
  await sim.clock.run(5000);
  sim.silent = true;
  await sim.clock.run(20_000);
  return sim.loop?.view()?.telemetryFresh.reason;
}

async function leastHosts(sim: SimCluster): Promise<number> {
  await sim.clock.run(storyMs);
  return Math.min(...(sim.plan()?.layers ?? []).flatMap(({ hosts }) => hosts.map((row) => row.length)));
}

async function rolesTold(sim: SimCluster): Promise<string> {
  await sim.clock.run(5_000);
  return (sim.loop?.view()?.members ?? []).map(({ rank, role }) => `${rank} ${role}`).join(", ");
}

const roles = (prefill: number, decode: number) => ({ ...rebalancing({}), roles: { prefill, decode } });

/** Fields that decide what the planner, the drains and gateways do. */
export const rebalancePlane: Readonly<Record<string, RebalancedField>> = {
  "rebalancing.mode": { change: rebalancing({ mode: "Off" }), outcome: verdict, without: "moved", with: "ModeOff" },
  "rebalancing.policy": { change: rebalancing({ policy: "eplb" }), outcome: policyAsked, without: "incremental", with: "eplb" },
  "rebalancing.trigger.imbalancePercent": {
    change: rebalancing({ trigger: { ...fast.rebalancing.trigger, imbalancePercent: 300 } }),
    outcome: verdict,
    without: "moved",
    with: "Balanced",
  },
  "rebalancing.trigger.minTokens": {
    change: rebalancing({ trigger: { ...fast.rebalancing.trigger, minTokens: 10_000_000 } }),
    outcome: verdict,
    without: "moved",
    with: "TooFewTokens",
  },
  "rebalancing.interval": {
    base: rebalancing({ budget: { maxMoves: 1 } }),
    change: rebalancing({ budget: { maxMoves: 1 }, interval: "30s" }),
    outcome: plansInAMinute,
    without: "many",
    with: "few",
  },
  "rebalancing.budget.maxMoves": { change: rebalancing({ budget: { maxMoves: 1 } }), outcome: movesPerPlan, without: "more", with: "one" },
  "rebalancing.budget.maxMovesPerRank": {
    change: rebalancing({ budget: { maxMovesPerRank: 1 } }),
    outcome: arrivals,
    without: "more",
    with: "one",
  },
  "rebalancing.budget.maxBytes": {
    change: rebalancing({ budget: { maxBytes: 100 } }),
    outcome: movesPerPlan,
    without: "more",
    with: "one",
  },
  "rebalancing.budget.maxTransferBytesPerSecond": {
    change: rebalancing({ budget: { maxTransferBytesPerSecond: 5 } }),
    outcome: pace,
    without: "at once",
    with: "slowly",
  },
  "experts.minExpertReplicas": {
    change: { ...rebalancing({}), experts: { minExpertReplicas: 2 } },
    outcome: leastHosts,
    without: 1,
    with: 2,
  },
  "telemetry.staleAfter": {
    change: { ...rebalancing({}), telemetry: { nats: { url: "nats://sim:4222" }, staleAfter: "10s" } },
    outcome: silence,
    without: "Fresh",
    with: "Stale",
  },
  "roles.prefill": {
    base: roles(1, 1),
    change: roles(2, 1),
    outcome: rolesTold,
    without: "0 prefill, 1 decode, 2 both",
    with: "0 prefill, 1 prefill, 2 decode",
  },
  "roles.decode": {
    base: roles(1, 1),
    change: roles(1, 2),
    outcome: rolesTold,
    without: "0 prefill, 1 decode, 2 both",
    with: "0 prefill, 1 decode, 2 decode",
  },
  "elasticity.drain": { change: { elasticity: { drain: "10s" } }, outcome: drained, without: "Draining", with: "Drained" },
};

/** What comes of a spec in a cluster whose first plan is committed. */
export async function outcomeOf(spec: object = rebalancing({}), outcome: RebalancedField["outcome"]): Promise<unknown> {
  const sim = new SimCluster({ spec: { ...spec } });
  sim.demand = skewed;
  sim.startOperator();
  assert.ok(await sim.clock.run(30_000, () => sim.converged()), "the first plan is committed");
  return outcome(sim);
}
