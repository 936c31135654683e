// The experts of a plan that no rank holds now, for the status: a restarted process has to load them again. Repairs depend on members
// instead.
import type { PlacementPlan } from "../../crds/plan.ts";
import { ranksOf } from "./members.ts";
import type { RankView, Unheld } from "./observed.ts";

export function unheld(plan: PlacementPlan | undefined, views: readonly RankView[]): Unheld {
  const usable = new Map<number, Holder>();
  for (const view of views) if (view.usable) usable.set(view.rank, holderOf(view));
  // The common case at every tick, decided by ranks alone.
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

type Holder = (layer: number, expert: number) => boolean;
const holdsAll: Holder = () => true;

function holderOf({ report }: RankView): Holder {
  // A worker is ready once it has held all that the plan gave it. Its report may be older than the commit.
  if (report?.status?.ready && report.status.epoch > 0) return holdsAll;
  const held = new Map([...(report?.hosted ?? [])].map(([layer, { experts }]) => [layer, new Set(experts)]));
  return (layer, expert) => held.get(layer)?.has(expert) ?? false;
}
