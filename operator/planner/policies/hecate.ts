// Hecate (arXiv 2502.02581) as a serving policy: primaries by heterogeneous sharding (Algorithm 2), resharded rarely; replicas by
// sparse materialisation (Algorithm 1, hecate-expert-replicas.ts).
import { cellValues } from "../../../runtime/placement/grid.ts";
import { sum } from "../../../runtime/placement/imbalance.ts";
import { shardPrimaries } from "../../../runtime/placement/shard.ts";
import type { PlacementPolicy, PlanInput, PlanOutput } from "../policy.ts";
import { type Hosts, type Problem, primariesOf, toLayers, toProblem } from "../problem.ts";
import { firstPlan } from "../repair.ts";
import { relabelled } from "../search/relabel.ts";
import { withinBudget, worstOf } from "../search/within-budget.ts";
import { reachOf, withExpertReplicas } from "./hecate-expert-replicas.ts";

/** Windows between reshardings; the paper has 100 iterations. */
export const reshardEvery = 100;
const reshardGain = 0.05;
/** A layer gets other replicas above this max/mean and above its noise. */
const enterAt = 1.05;
const enterNoises = 2;
/** Other replicas must gain this many deviations, since the hottest of many ranks is an extreme. */
const gainNoises = 3;

export const hecate: PlacementPolicy = {
  name: "hecate",
  summary: "heterogeneous sharding and sparse materialisation of the Hecate paper",
  keepsCurrent: true,
  cellsMax: Number.POSITIVE_INFINITY,
  plan: planHecate,
};

function planHecate(input: PlanInput): PlanOutput {
  const problem = toProblem(input);
  const reach = reachOf(problem);
  if (!problem.current) {
    const primaries = sharding(problem, reach.hidden) ?? primariesOf(toProblem({ ...input, current: firstPlan(input) }).current as Hosts);
    const layers = toLayers(problem, withExpertReplicas(problem, primaries, reach));
    return { layers, reason: "primaries by load, expert replicas of the hottest", resharding: false };
  }
  const staying = idle(problem, problem.current, withExpertReplicas(problem, primariesOf(problem.current), reach));
  const since = input.windowsSinceReshard;
  if (since !== undefined && since < reshardEvery) {
    const { hosts, layers } = withinBudget(problem, staying);
    const reason = `materialised ${layers} layers, primaries stay: sharded ${since} windows ago, again after ${reshardEvery}`;
    return { layers: toLayers(problem, hosts), reason };
  }
  return resharded(problem, staying, sharding(problem, reach.hidden), reach);
}

/**
 * fix: the paper remakes replicas every iteration. Here each costs a transfer, so a layer stays as it is if it is even, or would gain,
 * but for chance.
 */
function idle(problem: Problem, current: Hosts, target: Hosts): Hosts {
  if (problem.input.gainPerMove === undefined) return target;
  return target.map((layer, l) => {
    const now = current[l] as number[][];
    const noise = problem.input.noise?.[l] ?? 0;
    if (now.some((row) => row.length === 0)) return layer;
    const worst = worstOf(problem, l, now);
    if (worst <= Math.max(enterAt, 1 + enterNoises * noise)) return now;
    return worst - worstOf(problem, l, layer) < gainNoises * noise ? now : layer;
  });
}

function resharded(problem: Problem, staying: Hosts, primaries: Hosts | undefined, reach: ReturnType<typeof reachOf>): PlanOutput {
  const fresh = primaries ? withExpertReplicas(problem, primaries, reach) : staying;
  const better = staying.map((layer, l) => worstOf(problem, l, fresh[l] as number[][]) < worstOf(problem, l, layer) - reshardGain);
  // fix: Algorithm 2 ignores which rank gets which part.
  const target = staying.map((layer, l) => (better[l] ? relabelled(problem, l, fresh[l] as number[][]) : layer));
  const { hosts, layers } = withinBudget(problem, target);
  const moved = (l: number): boolean => primariesMoved(problem.current?.[l] ?? [], hosts[l] as number[][]);
  const left = better.some((is, l) => is && hosts[l] !== target[l]);
  return {
    layers: toLayers(problem, hosts),
    reason: `materialised ${layers} layers, primaries of ${better.filter((is) => is).length} re-sharded`,
    resharding: left && better.some((is, l) => is && moved(l)),
  };
}

function primariesMoved(from: Hosts[number], to: Hosts[number]): boolean {
  return to.some((row, e) => row[0] !== from[e]?.[0]);
}

/** Primaries leave the memory that one replica of every expert needs. */
function sharding(problem: Problem, top: number): Hosts | undefined {
  const { shape, load } = problem.input;
  const { L, E, G, speed, experts, total } = problem;
  const bytes = problem.slotCap === Number.POSITIVE_INFINITY ? shape.residentBytes : Float64Array.from(cellValues(shape, () => 1));
  const equal = Math.ceil(sum(bytes) / G + (total > 0 ? sum(bytes) / total : 0));
  const capacity =
    problem.slotCap === Number.POSITIVE_INFINITY
      ? problem.capacity.map((bytes) => Math.min(bytes, equal))
      : new Float64Array(G).fill(sum(experts.map((count) => Math.ceil(count / G))));
  const primaries = shardPrimaries({
    layers: L,
    experts: E,
    layerExperts: experts,
    ranks: G,
    load,
    bytes,
    capacity,
    speed,
    node: problem.node,
    top,
  })?.map((layer) => layer.map((g) => [g]));
  if (problem.slotCap === Number.POSITIVE_INFINITY || !primaries) return primaries;
  const fits = primaries.every((layer) =>
    Array.from({ length: G }, (_, g) => layer.filter((row) => row[0] === g).length).every((n) => n <= problem.slotCap),
  );
  return fits ? primaries : undefined;
}
