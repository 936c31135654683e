// What the rebalance plane of a simulated cluster does within a minute of skewed load, in a word or a number each.
import assert from "node:assert/strict";
import { policyNames } from "../../crds/names.ts";
import { diffPlans } from "../../runtime/placement/diff.ts";
import type { SimCluster } from "./cluster.ts";

const storyMs = 60_000;

/** The decision of the loop in a minute of skewed load: experts have moved, or the last reason why not. */
export async function verdict(sim: SimCluster): Promise<string> {
  await sim.clock.run(storyMs);
  const held = sim.events.filter(({ reason }) => reason === "RebalanceHeld").map(({ message }) => message.split(":")[0] ?? "");
  // Interval says when it looks again, not what it sees.
  return (sim.plan()?.epoch ?? 0) > 1 ? "moved" : (held.findLast((reason) => reason !== "Interval") ?? "nothing said");
}

/** The policy that plans are asked of. */
export async function policyAsked(sim: SimCluster): Promise<string> {
  await sim.clock.run(storyMs);
  const started = sim.events.find(({ reason }) => reason === "RebalanceStarted");
  return policyNames.find((name) => started?.message.includes(`${name}:`)) ?? "nobody";
}

/** Tells if plans of one minute moved one expert each, or some of them more. */
export async function movesPerPlan(sim: SimCluster): Promise<"one" | "more" | "none"> {
  const moves = new Set<number>();
  await sim.clock.run(storyMs, () => {
    moves.add(sim.loop?.view()?.placement?.lastRebalance?.moves ?? 0);
    return false;
  });
  return Math.max(...moves) > 1 ? "more" : moves.has(1) ? "one" : "none";
}

/** Tells if a plan of the first minute brought one rank more than one expert. */
export async function arrivals(sim: SimCluster): Promise<"one" | "more"> {
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
export async function pace(sim: SimCluster): Promise<"at once" | "slowly"> {
  const duration = () => sim.loop?.view()?.placement?.lastRebalance?.durationMs;
  assert.ok(await sim.clock.run(10 * storyMs, () => duration() !== undefined));
  return (duration() ?? 0) > 20_000 ? "slowly" : "at once";
}

/** Plans for balance in a minute of which each may move one expert only. */
export async function plansInAMinute(sim: SimCluster): Promise<"few" | "many"> {
  await sim.clock.run(storyMs);
  return sim.epochsWritten.length - 1 > storyMs / 30_000 ? "many" : "few";
}

/** Tells if a leaving rank whose request never ends is let go within half a minute. */
export async function drained(sim: SimCluster): Promise<string | undefined> {
  const worker = sim.worker(2);
  worker.activeRequests = 1;
  sim.scale(2);
  sim.leaving = [{ rank: 2, podUid: worker.podUid, reason: "Shrink" }];
  sim.refresh();
  await sim.clock.run(30_000);
  return sim.loop?.view()?.drains[0]?.phase;
}

export async function silence(sim: SimCluster): Promise<string | undefined> {
  await sim.clock.run(5000);
  sim.nats.silent = true;
  await sim.clock.run(20_000);
  return sim.loop?.view()?.telemetryFresh.reason;
}

export async function leastHosts(sim: SimCluster): Promise<number> {
  await sim.clock.run(storyMs);
  return Math.min(...(sim.plan()?.layers ?? []).flatMap(({ hosts }) => hosts.map((row) => row.length)));
}
