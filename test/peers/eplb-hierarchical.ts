// EPLB with groups of experts that stay on one node, as DeepSeek published it. No deployment has such groups: its published example shows
// that our packing is theirs.
import { AppError } from "../../crds/common.ts";
import { eplbGlobal, pack } from "../../operator/planner/policies/eplb.ts";

export interface EplbTopology {
  readonly groups: number;
  readonly nodes: number;
  readonly ranks: number;
  readonly perRank: number;
}

/** Groups of experts stay on one node; within a node it is the global form. */
export function eplbHierarchical(demand: ArrayLike<number>, topology: EplbTopology): number[][] {
  const { groups, nodes, ranks, perRank } = topology;
  const experts = demand.length;
  if (experts % groups !== 0 || groups % nodes !== 0 || ranks % nodes !== 0) {
    throw new AppError(
      `EPLB hierarchical needs experts % groups = groups % nodes = ranks % nodes = 0, got ${experts}, ${groups}, ${nodes}, ${ranks}`,
      { code: "InvalidTopology" },
    );
  }
  const size = experts / groups;
  const weight = (group: number): number => {
    let total = 0;
    for (let i = 0; i < size; i++) total += demand[group * size + i] as number;
    return total;
  };
  const byNode = pack(
    Array.from({ length: groups }, (_, item) => ({ item, weight: weight(item) })),
    nodes,
    groups / nodes,
  );
  const replicas: number[][] = [];
  for (const own of byNode) {
    const members = own.flatMap((group) => Array.from({ length: size }, (_, i) => group * size + i));
    const inside = eplbGlobal(
      members.map((e) => demand[e] as number),
      ranks / nodes,
      perRank,
    );
    for (const list of inside.replicas) replicas.push(list.map((i) => members[i] as number));
  }
  return replicas;
}
