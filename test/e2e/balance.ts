// The measure of balance that e2e tests share, and their way to change the planner's settings.
import { patchSpec } from "./steps.ts";
import type { Deployed } from "./world.ts";

/**
 * max(1.15, 1.05 x bound), of max/mean. Without a bound there is nothing that memory keeps uneven. Hecate shards primaries again only
 * after a hundred windows, so that chance of the first window stays: 1.25 for it.
 */
export const goalOf = (boundPercent: number | undefined, policy: "incremental" | "hecate"): number =>
  Math.max(policy === "hecate" ? 1.25 : 1.15, ((boundPercent ?? 100) / 100) * 1.05);

export async function patchRebalancing({ kubectl }: Pick<Deployed, "kubectl">, name: string, rebalancing: object): Promise<void> {
  await patchSpec({ kubectl, name }, { rebalancing });
}
