// Cost of an expert replica by where it comes from, for policies that weigh gain against cost: a source on the same node is cheap, in
// another rack or zone dear. Pure; undefined where all paths cost the same, so that the search need not ask.
import { cheapestPath, pathFactor, placeOf } from "../../runtime/placement/cost.ts";
import type { PlanInput, RankSpec } from "./policy.ts";

/** The least cost, which is not zero: an expert replica on the same node still has to be loaded and verified. */
const least = 0.25;

/**
 * Cost factor of an expert replica, >= 0.25, where one within a zone costs 1, between two racks of it 1.5 and between zones 3; undefined when every
 * rank has a node of one zone and rack to itself.
 */
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
