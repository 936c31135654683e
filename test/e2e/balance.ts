// What the objects say of balance, and how a test changes the planner's settings.
import type { Kubectl } from "../harness/kubectl.ts";
import type { Deployed } from "./world.ts";

export interface Balance {
  readonly epoch: number;
  readonly imbalance: number | undefined;
  readonly bound: number | undefined;
  readonly moves: number | undefined;
  readonly bytes: number | undefined;
  readonly reason: string;
  /** What the planner last decided. */
  readonly decision: string;
}

export async function balanceOf(kubectl: Kubectl, name: string): Promise<Balance> {
  const [moed, eplace] = await Promise.all([kubectl.get("moed", name), kubectl.get("eplace", name)]);
  const placement = moed.status?.placement ?? {};
  return {
    epoch: eplace.spec.epoch,
    imbalance: placement.imbalancePercent,
    bound: placement.boundPercent,
    moves: placement.lastRebalance?.moves,
    bytes: placement.lastRebalance?.bytes,
    reason: eplace.status?.reason ?? "",
    decision: eplace.status?.decision ? `${eplace.status.decision.reason}: ${eplace.status.decision.message}` : "",
  };
}

/** max(1.15, 1.05 x bound) in percent. */
export const goalPercent = (balance: Balance): number => Math.max(115, Math.ceil((balance.bound ?? 100) * 1.05));

export async function patchRebalancing({ kubectl }: Deployed, name: string, rebalancing: object): Promise<void> {
  await kubectl.run(["patch", `moed/${name}`, "--type=merge", "-p", JSON.stringify({ spec: { rebalancing } })]);
}
