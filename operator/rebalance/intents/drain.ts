// The intent for leaving ranks: their experts get primaries on the others first. Without capacity the drain is blocked with a remedy.
import { ranksOf } from "../members.ts";
import type { Observed } from "../observed.ts";
import { done, settled } from "./attempts.ts";
import type { Intent } from "./intent.ts";
import { newPrimaries, primaryMoves } from "./move-primaries.ts";

export const drain: Intent = {
  kind: "drain",
  cost: "plan",
  holdsUpOthers: false,
  onWindow: false,
  wanted: (seen) => leavingRanks(seen).length > 0 && seen.ranks.some((rank) => rank.state === "active"),
  make(seen, { load }) {
    if (!load || !seen.plan) return done;
    const leaving = leavingRanks(seen);
    const primaries = newPrimaries(load.input(seen), seen.plan);
    const { unhosted, changed } = primaries;
    if (unhosted.length > 0) {
      const message = `${unhosted.length} experts would have no host: raise experts.memoryPerRank, keep replicas, or set experts.oversubscription to Allow`;
      return { end: "settled", blocked: new Map(leaving.map((rank) => [rank, message])) };
    }
    if (!changed) return settled;
    const reason = `ranks ${leaving.join(", ")} leave`;
    const plan = primaryMoves(primaries, { kind: "drain", reason, parent: seen.plan });
    load.forgetHistory();
    return plan;
  },
};

/** A rank that leaves because the deployment stops keeps its experts. */
function leavingRanks({ views, plan }: Observed): number[] {
  const used = new Set(ranksOf(plan));
  return views
    .filter((view) => view.leaving && view.leaving.reason !== "Stop" && used.has(view.rank) && view.usable)
    .map((view) => view.rank);
}
