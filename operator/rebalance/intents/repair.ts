// The intent for lost ranks: their unhosted experts get new primaries, or are loaded on demand without capacity. Nothing is planned
// until a silent rank is declared lost.
import { ranksOf } from "../members.ts";
import type { Observed } from "../observed.ts";
import { done, settled } from "./attempts.ts";
import type { Intent, Wanted } from "./intent.ts";
import { newPrimaries, primaryMoves } from "./move-primaries.ts";

export const repair: Intent = {
  kind: "repair",
  cost: "plan",
  holdsUpOthers: false,
  onWindow: false,
  wanted,
  make(seen, { load, ports }) {
    if (!load || !seen.plan) return done;
    const lost = deadRanks(seen);
    const primaries = newPrimaries(load.input(seen), seen.plan);
    const { unhosted, changed } = primaries;
    if (unhosted.length > 0) {
      const message = `${unhosted.length} experts have no room after the loss of ranks ${lost.join(", ")}: loaded on demand`;
      ports.event(seen.world, "Warning", "ExpertsUnhosted", message);
    }
    if (!changed) return settled;
    const reason = `ranks ${lost.join(", ")} are lost`;
    const plan = primaryMoves(primaries, { kind: "repair", reason, parent: seen.plan, atOnce: true });
    load.forgetHistory();
    return plan;
  },
};

function wanted(seen: Observed): Wanted {
  const dead = deadRanks(seen);
  const silent = dead.filter((rank) => !seen.gone.has(rank));
  if (silent.length > 0) return { reason: "MembershipUnknown", message: `ranks ${silent.join(", ")} do not answer; not declared lost yet` };
  return dead.length > 0 && seen.ranks.some((rank) => rank.state === "active");
}

function deadRanks({ plan, ranks }: Observed): number[] {
  const dead = new Set(ranks.filter((rank) => rank.state === "dead").map(({ rank }) => rank));
  return ranksOf(plan).filter((rank) => dead.has(rank));
}
