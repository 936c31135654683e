// Takes the rank that was taken longest ago.
import type { RoutingPolicy } from "./policy.ts";

export const roundRobin: RoutingPolicy = (ranks) => {
  const { rank } = ranks.reduce((a, b) => (b.lastChosen < a.lastChosen ? b : a));
  return { rank, by: "rotation" };
};
