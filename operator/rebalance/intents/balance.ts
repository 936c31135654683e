// The intent for a more even load: when a closed window and both questions of planner/decide.ts allow it, the policy plans on the
// planner thread.
import type { Observed } from "../observed.ts";
import { done } from "./attempts.ts";
import { type Intent, type Made, planned, type Tools } from "./intent.ts";

export class Balance implements Intent {
  readonly kind = "balance";
  readonly cost = "plan";
  readonly holdsUpOthers = false;
  readonly onWindow = true;

  wanted({ plan }: Observed): boolean {
    return plan !== undefined;
  }

  async make(seen: Observed, tools: Tools): Promise<Made> {
    const { plan, spec, world } = seen;
    const { load, decisions } = tools;
    if (!load || !plan) return done;
    const held = (decision: Parameters<typeof decisions.held>[0]): Made => {
      decisions.held(decision, world, seen.now);
      return done;
    };
    const asked = load.ask(seen, seen.now);
    const near = load.near(seen, seen.now);
    if (!asked.act && !near) return held(asked);
    const input = near ?? load.input(seen);
    const policy = near ? "near" : spec.rebalancing.policy;
    const output = await planned(policy, seen, input, tools);
    if (!output) return done;
    if (near && !output.kept) return held(asked);
    const judged = load.judge(input, output, spec, seen.now);
    if (near && !judged.decision.act) return held(asked);
    if (judged.decision.reason === "Recommended") decisions.recommend(judged.decision.message, world, plan.layers, output.layers);
    if (!judged.decision.act) return held(judged.decision);
    decisions.acted();
    const { before, after, bound } = judged;
    const reason = `${policy}: ${judged.decision.message}; ${output.reason}`;
    const predicted = { before, after, bound };
    return { kind: this.kind, layers: output.layers, reason, parent: plan, limited: true, announced: true, once: false, predicted, input };
  }
}
