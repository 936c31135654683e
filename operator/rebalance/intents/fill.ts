// The intent for new ranks: they take experts and replicas by gain, whatever the trigger.
import { type PlanInput, unlimited } from "../../planner/policy.ts";
import { orphans } from "../../planner/repair.ts";
import { assertPlan } from "../../planner/validate.ts";
import { ranksOf } from "../members.ts";
import { done } from "./attempts.ts";
import { type Intent, planned } from "./intent.ts";

export const fill: Intent = {
  kind: "fill",
  cost: "plan",
  holdsUpOthers: false,
  onWindow: false,
  wanted({ plan, ranks }) {
    const used = new Set(ranksOf(plan));
    return ranks.some((rank) => rank.state === "active" && !used.has(rank.rank));
  },
  async make(seen, tools) {
    const { load } = tools;
    if (!load || !seen.plan) return done;
    load.forgetHistory();
    const input: PlanInput = { ...load.input(seen, { even: seen.spec.rebalancing.mode === "Off" }), budget: unlimited };
    const output = await planned("fill", seen, input, tools);
    if (!output) return done;
    const { layers, reason } = output;
    assertPlan(input, layers, { unhosted: orphans(input, seen.plan.layers) });
    return { kind: "fill", layers, reason, parent: seen.plan, limited: false, announced: true, once: true, input };
  },
};
