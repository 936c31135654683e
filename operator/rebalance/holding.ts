// The experts of a plan that no rank holds at this moment, as their processes report it: a process that has restarted is empty until
// it has loaded them again. The status says it; who is to be repaired is decided by who is there, not by this. Pure.
import type { PlacementPlan } from "../../crds/plan.ts";
import { ranksOf } from "./members.ts";
import type { RankView, Unheld } from "./observed.ts";

export function unheld(plan: PlacementPlan | undefined, views: readonly RankView[]): Unheld {
  const usable = new Map<number, Holder>();
  for (const view of views) if (view.usable) usable.set(view.rank, holderOf(view));
  // The common case at every tick, told by its ranks alone: all that the plan names have held what it gave them.
  if (ranksOf(plan).every((rank) => usable.get(rank) === holdsAll)) return { unhosted: 0, withoutRank: 0, loading: [] };
  const loading = new Set<number>();
  let withoutRank = 0;
  let waiting = 0;
  for (const [l, layer] of (plan?.layers ?? []).entries()) {
    for (const [e, hosts] of layer.hosts.entries()) {
      if (hosts.some((rank) => usable.get(rank)?.(l, e))) continue;
      const there = hosts.filter((rank) => usable.has(rank));
      if (there.length === 0) withoutRank++;
      else waiting++;
      for (const rank of there) loading.add(rank);
    }
  }
  return { unhosted: withoutRank + waiting, withoutRank, loading: [...loading].sort((a, b) => a - b) };
}

/** The question whether a rank that is planned to hold (layer, expert) does. */
type Holder = (layer: number, expert: number) => boolean;
const holdsAll: Holder = () => true;

function holderOf({ report }: RankView): Holder {
  // A worker is ready once it has held all that the plan gave it. The report of what it holds may be older than the commit.
  if (report?.status?.ready && report.status.epoch > 0) return holdsAll;
  const held = new Map([...(report?.hosted ?? [])].map(([layer, { experts }]) => [layer, new Set(experts)]));
  return (layer, expert) => held.get(layer)?.has(expert) ?? false;
}
