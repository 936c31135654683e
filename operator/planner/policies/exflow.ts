// ExFlow (arXiv 2401.08383): experts of consecutive layers that serve the same tokens share a rank, an equal number per
// rank and layer, so that fewer activations change rank. Needs transitions; ignores load and makes no expert replicas, as its
// authors describe it.
import type { PlacementPolicy } from "../policy.ts";
import { someUnhosted, toProblem } from "../problem.ts";
import { seeded } from "../random.ts";
import { primariesStay } from "../repair.ts";
import { placeChain } from "../search/affinity/chain.ts";
import { affinityPlan, expertFlow, placesOf } from "./affinity.ts";

export const exflow: PlacementPolicy = {
  name: "exflow",
  summary: "primaries by inter-layer affinity (needs transitions); fewest hops between ranks",
  keepsCurrent: true,
  usesTransitions: true,
  evenLayersOnly: true,
  cellsMax: 300_000,
  plan(input) {
    if (!input.transitions) return primariesStay(input, "no transitions between layers are known");
    const problem = toProblem(input);
    if (someUnhosted(problem)) return primariesStay(input, "memory does not hold every expert");
    const chain = { layers: problem.L, items: problem.E, ranks: problem.G, flow: expertFlow(problem) };
    return affinityPlan(problem, placeChain(chain, placesOf(problem), seeded(input.seed ?? 1)));
  },
};
