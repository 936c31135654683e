// The intent for a more even load: when a closed window and both questions of planner/decide.ts allow it, the policy plans on the
// planner thread.
import type { PlanInput, PlanOutput } from "../../planner/policy.ts";
import type { Observed } from "../observed.ts";
import { done } from "./attempts.ts";
import type { Intent, Made, Tools } from "./intent.ts";

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
    const { load, decisions, latest } = tools;
    if (!load || !plan) return done;
    const held = (decision: Parameters<typeof decisions.held>[0]): Made => {
      decisions.held(decision, world, seen.now);
      return done;
    };
    const asked = load.ask(seen, seen.now);
    if (!asked.act) return held(asked);
    const input = load.input(seen);
    const output = await planned(seen, input, tools);
    // A plan for other members is useless.
    if (!output || latest().members !== seen.members) return done;
    const judged = load.judge(input, output, spec, seen.now);
    if (judged.decision.reason === "Recommended") decisions.recommend(judged.decision.message, world, plan.layers, output.layers);
    if (!judged.decision.act) return held(judged.decision);
    decisions.acted();
    const { before, after, bound } = judged;
    const reason = `${spec.rebalancing.policy}: ${judged.decision.message}; ${output.reason}`;
    const predicted = { before, after, bound };
    return { kind: this.kind, layers: output.layers, reason, parent: plan, limited: true, announced: true, once: false, predicted, input };
  }
}

async function planned(
  { spec, world }: Observed,
  input: PlanInput,
  { ports: { clock, planner, metrics, tracing }, trace, signal }: Tools,
): Promise<PlanOutput | undefined> {
  const { policy } = spec.rebalancing;
  const started = clock.now();
  const span = tracing.start("operator.plan", { parent: trace, attributes: { "enodia.policy": policy } });
  try {
    const output = await planner.plan(policy, input, signal);
    const labels = { namespace: world.ref.namespace, deployment: world.ref.name, policy };
    metrics.observe("enodia_planner_duration_seconds", (clock.now() - started) / 1000, labels);
    return signal.aborted ? undefined : output;
  } catch (caught) {
    if (signal.aborted) return undefined;
    span.fail(caught);
    throw caught;
  } finally {
    span.set({ "enodia.abandoned": signal.aborted });
    span.end();
  }
}
