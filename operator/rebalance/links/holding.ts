// Which experts of a plan no rank holds at this moment, as their processes report it: a process that has restarted is empty
// until it has loaded them again. For what is said of a deployment; who is to be repaired is decided by who is there. Pure.
import type { PlacementPlan } from "../../../crds/plan.ts";
import type { RankView } from "./members.ts";

export interface Unheld {
  /** (layer, expert) pairs without a live copy. */
  readonly unhosted: number;
  /** Those of them that no usable rank is planned to hold. */
  readonly homeless: number;
  /** Usable ranks that have yet to load some of the others, ascending. */
  readonly loading: readonly number[];
}

export function unheld(plan: PlacementPlan | undefined, views: readonly RankView[]): Unheld {
  const usable = new Map<number, Holder>();
  for (const view of views) if (view.usable) usable.set(view.rank, holderOf(view));
  const loading = new Set<number>();
  let homeless = 0;
  let waiting = 0;
  for (const [l, layer] of (plan?.layers ?? []).entries()) {
    for (const [e, hosts] of layer.hosts.entries()) {
      if (hosts.some((rank) => usable.get(rank)?.(l, e))) continue;
      const there = hosts.filter((rank) => usable.has(rank));
      if (there.length === 0) homeless++;
      else waiting++;
      for (const rank of there) loading.add(rank);
    }
  }
  return { unhosted: homeless + waiting, homeless, loading: [...loading].sort((a, b) => a - b) };
}

/** Whether a rank that is planned to hold (layer, expert) does. */
type Holder = (layer: number, expert: number) => boolean;

function holderOf({ link }: RankView): Holder {
  // Ready once it has held all that the plan gave it. Its report may be of a moment before the plan was committed.
  if (link?.status?.ready && link.status.epoch > 0) return () => true;
  const held = new Map([...(link?.hosted ?? [])].map(([layer, { experts }]) => [layer, new Set(experts)]));
  return (layer, expert) => held.get(layer)?.has(expert) ?? false;
}
