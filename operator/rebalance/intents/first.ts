// The intent for a deployment without a placement: every expert gets a primary once enough ranks exist.
import { checkMemory } from "../../planner/feasibility.ts";
import { unlimited } from "../../planner/policy.ts";
import type { Observed } from "../observed.ts";
import { done } from "./attempts.ts";
import { type Intent, planned, type Wanted } from "./intent.ts";

/** The first plan waits this long for all ranks, then takes those present if their memory suffices. */
const firstPlanWaitMs = 20_000;

export const first: Intent = {
  kind: "first",
  cost: "plan",
  holdsUpOthers: true,
  onWindow: false,
  wanted,
  async make(seen, tools) {
    const { load } = tools;
    if (!load) return done;
    const input = { ...load.input(seen, { even: true }), current: undefined, budget: unlimited };
    const output = await planned("first", seen, input, tools);
    if (!output) return done;
    const { layers } = output;
    const reason = `first plan: ${seen.expected.length} ranks, primaries dealt round-robin`;
    return { kind: "first", layers, reason, parent: undefined, limited: false, announced: false, once: false };
  },
};

function wanted({ shape, plan, ranks, world, waitedMs }: Observed): Wanted {
  if (!shape) return { reason: "NoWorker", message: "no worker has described itself yet" };
  if (plan) return false;
  const active = ranks.filter((rank) => rank.state === "active");
  if (active.length === 0) return { reason: "NoWorker", message: "no worker is connected" };
  const fits = checkMemory(shape, active);
  const missing = world.desiredRanks - active.length;
  if (missing > 0 && (waitedMs < firstPlanWaitMs || !fits.ok))
    return { reason: "WaitingForRanks", message: `${active.length} of ${world.desiredRanks} ranks are connected` };
  return fits.ok || { reason: fits.reason, message: fits.message };
}
