// The check that experts are in memory where the plan says, by what each worker says of its own memory.
import type { PlacementPlan } from "../../crds/plan.ts";
import { fromSpec } from "../../operator/rebalance/rollout/plan-object.ts";
import { workerPods } from "../kit/deployment/product.ts";
import { scrape, sum } from "../kit/kube/scrape.ts";
import type { Deployed } from "./world.ts";

export interface Holder {
  readonly rank: number;
  /** Experts that the plan gives it, and that it holds. */
  readonly planned: number;
  readonly held: number;
  /** Newest epoch that it has committed. */
  readonly epoch: number;
}

export const planOf = async ({ kubectl, name }: Deployed): Promise<PlacementPlan> => fromSpec((await kubectl.get("eplace", name)).spec);

export const rankOf = (podName: string): number => Number(podName.split("-").at(-2));

/** Ranks whose process answers; one that is dead or just starting is left out. */
export async function holders(moe: Deployed, plan: PlacementPlan): Promise<readonly Holder[]> {
  const pods = await workerPods(moe.kubectl, moe.name);
  const looks = pods.map(async ({ metadata }): Promise<Holder[]> => {
    const samples = await scrape(moe.kubectl, moe.namespace, metadata.name).catch(() => undefined);
    if (samples === undefined) return [];
    const rank = rankOf(metadata.name);
    const planned = plan.layers.reduce((count, { hosts }) => count + hosts.filter((row) => row.includes(rank)).length, 0);
    return [{ rank, planned, held: sum(samples, "enodia_expert_hosted"), epoch: sum(samples, "enodia_plan_epoch") }];
  });
  return (await Promise.all(looks)).flat();
}

/** (layer, expert) pairs of the plan of which no host holds all that the plan gives it. */
export function withoutLiveExpertReplica(plan: PlacementPlan, all: readonly Holder[]): number {
  const whole = new Set(all.filter(({ planned, held }) => planned > 0 && held >= planned).map(({ rank }) => rank));
  return plan.layers.reduce((count, { hosts }) => count + hosts.filter((row) => !row.some((rank) => whole.has(rank))).length, 0);
}
