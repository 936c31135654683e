// A row of the planner benchmark: would it pay to drop the placement for one planned from nothing, when incremental plans fall
// behind such a one? Both are tried from the first plan of a deployment on (primaries dealt round-robin, no expert replicas), with the same
// budget a plan: incremental, and steps to a plan from nothing, made anew for every window or once and kept.
import type { LayerPlan } from "../../crds/plan.ts";
import { policies } from "../../operator/planner/index.ts";
import { simulate } from "../../operator/planner/offline/simulate.ts";
import type { Trace } from "../../operator/planner/offline/traces.ts";
import type { PresetName } from "../../operator/planner/offline/traces-generate.ts";
import { planFresh } from "../../operator/planner/policies/incremental.ts";
import type { PlacementPolicy, PlanInput } from "../../operator/planner/policy.ts";
import { type Hosts, toLayers, toProblem } from "../../operator/planner/problem.ts";
import { firstPlan } from "../../operator/planner/repair.ts";
import { relabelled } from "../../operator/planner/search/relabel.ts";
import { withinBudget } from "../../operator/planner/search/within-budget.ts";
import { asOnCluster, type Cluster, fixed, traceOf } from "./planner-kit.ts";

export type Approach = "incremental" | "fresh each window" | "fresh once";

/** An approach as a policy, from primaries alone on. */
function approach(name: Approach): PlacementPolicy {
  let target: Hosts | undefined;
  const plan = (input: PlanInput): { readonly layers: readonly LayerPlan[]; readonly reason: string } => {
    const problem = toProblem(input);
    if (name === "fresh each window" || !target) {
      const fresh = toProblem({ ...input, current: planFresh(input).layers }).current ?? [];
      target = fresh.map((layer, l) => relabelled(problem, l, layer));
    }
    return { layers: toLayers(problem, withinBudget(problem, target).hosts), reason: name };
  };
  return {
    ...policies.incremental,
    plan: (input) => {
      if (!input.current) return { layers: firstPlan(input), reason: "primaries" };
      return name === "incremental" ? policies.incremental.plan(input) : plan(input);
    },
  };
}

export interface Approached {
  /** Mean over layers of mean/max, under the weights of the plan, by window; the first is that of primaries alone. */
  readonly balance: readonly number[];
  readonly expertReplicas: number;
}

/** Plans by an approach as a cluster does, with so many expert replicas a plan. */
export async function approached(name: Approach, trace: Trace, cluster: Cluster, budgetExpertReplicas: number): Promise<Approached> {
  const results = await simulate({ trace, policy: approach(name), ...cluster, ...asOnCluster, budgetExpertReplicas, now: () => 0 });
  return {
    balance: results.flatMap(({ next }) => (next ? [next.fixed.balance] : [])),
    expertReplicas: results.reduce((sum, result) => sum + result.expertReplicas, 0),
  };
}

const cases: readonly (readonly [PresetName, Cluster, readonly number[]])[] = [
  ["qwen3_48x128", { ranks: 16, slots: 9 }, [64, 512]],
  ["dsv3_drift", { ranks: 32, slots: 9 }, [64, 1000]],
  ["dsv3_burst", { ranks: 64, slots: 5 }, [64, 1000]],
  ["dsv3_drift", { ranks: 144, slots: 2 }, [64, 1000, 4000]],
  ["mixtral_32x8", { ranks: 8, slots: 2 }, [64]],
];

export async function freshRows(seed: number): Promise<readonly object[]> {
  const rows: object[] = [];
  for (const [preset, cluster, budgets] of cases) {
    for (const budget of budgets) {
      const run = (name: Approach): Promise<Approached> => approached(name, traceOf(preset, seed), cluster, budget);
      const [ours, each, once] = [await run("incremental"), await run("fresh each window"), await run("fresh once")];
      const mean = ({ balance }: Approached): string => fixed(balance.slice(1).reduce((a, b) => a + b, 0) / (balance.length - 1), 3);
      const ahead = (other: Approached): number => other.balance.filter((value, t) => value > (ours.balance[t] ?? 1) + 0.03).length;
      rows.push({
        row: "fresh",
        seed,
        what: `${preset} EP${cluster.ranks}x${cluster.slots}, ${budget} expert replicas a plan`,
        incremental: `${mean(ours)} with ${ours.expertReplicas} expert replicas`,
        freshEachWindow: `${mean(each)} with ${each.expertReplicas}, more than 3 points ahead in ${ahead(each)} of ${ours.balance.length - 1} windows`,
        freshOnce: `${mean(once)} with ${once.expertReplicas}, in ${ahead(once)}`,
      });
    }
  }
  return rows;
}
