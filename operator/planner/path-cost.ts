// The cost of an expert replica by its source: cheap within a node, dear from another rack or zone.
import { cheapestPath, pathFactor, placeOf } from "../../runtime/placement/cost.ts";
import type { PlanInput, RankSpec } from "./policy.ts";

/** Above zero, since a replica from the same node is still loaded and verified. */
const least = 0.25;

/** The cost factor, >= 0.25: 1 within a zone, 1.5 between its racks, 3 between zones. Undefined where all paths cost the same. */
export function pathCost(ranks: readonly RankSpec[]): PlanInput["moveCost"] {
  const places = new Map(ranks.map((rank) => [rank.rank, placeOf(rank)]));
  const nodes = new Set([...places.values()].map((place) => place.node));
  const zones = new Set(ranks.map((rank) => rank.zone));
  const racks = new Set(ranks.map((rank) => rank.rack));
  if (nodes.size === ranks.length && zones.size <= 1 && racks.size <= 1) return undefined;
  return (_layer, _expert, rank, sources) => {
    const receiver = places.get(rank);
    if (!receiver) return 1;
    const path = cheapestPath(
      receiver,
      sources.flatMap((source) => places.get(source) ?? []),
    );
    return Math.max(least, pathFactor[path] / pathFactor.zone);
  };
}
