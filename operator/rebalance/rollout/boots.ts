// Which boots were told what is committed, and what a running plan hears of boots that come up and of ranks that are lost.
import type { PlacementPlan } from "../../../crds/plan.ts";
import { lostAfterMs, type RankView } from "../links/members.ts";
import type { PlanMember } from "../ports.ts";
import type { Rollout } from "./rollout.ts";

export class Boots {
  private readonly told = new Map<number, string>();

  /** A plan begins with these: it tells them itself. */
  begin(members: ReadonlyMap<number, PlanMember>): void {
    for (const [rank, { bootId }] of members) this.told.set(rank, bootId);
  }

  /** `usableAt`: when each rank was last seen usable. */
  follow(
    views: readonly RankView[],
    usableAt: ReadonlyMap<number, number>,
    plan: { readonly running: Rollout | undefined; readonly committed: PlacementPlan | undefined },
    now: number,
  ): void {
    for (const view of views) {
      const boot = view.link?.description?.bootId;
      if (!view.usable || boot === undefined || this.told.get(view.rank) === boot) continue;
      this.told.set(view.rank, boot);
      const mix = plan.running ? plan.running.forJoiners() : plan.committed;
      if (mix) view.link?.pushPlan(mix);
      plan.running?.joined(view.rank, boot);
    }
    for (const rank of this.told.keys()) {
      if (views.some((view) => view.rank === rank && view.usable) || now - (usableAt.get(rank) ?? 0) <= lostAfterMs) continue;
      this.told.delete(rank);
      plan.running?.lost(rank);
    }
  }
}
