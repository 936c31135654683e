// The common part of the two affinity policies (exflow.ts, moetuner.ts): flow between experts from the input's transitions, present
// primaries as a start, and the step from a target to a plan within the budget. Pure; not a policy itself.
import type { PlanOutput } from "../policy.ts";
import { fitsMemory, type Hosts, type Problem, toLayers } from "../problem.ts";
import { primariesStay } from "../repair.ts";
import { type Chain, crossing, type Places } from "../search/affinity/chain.ts";
import { type Aim, withinBudget } from "../search/within-budget.ts";

/** A target is followed only if it saves this part of the present hops. */
const worthwhile = 0.015;

/** Transitions from expert i of a layer to expert j of the next; 0 where none are known. */
export function expertFlow(problem: Problem): (layer: number, i: number, j: number) => number {
  const { E } = problem;
  const counts = problem.input.transitions;
  return (layer, i, j) => counts?.[(layer * E + i) * E + j] ?? 0;
}

/** primaries[layer][expert] as rank indexes; undefined while nothing is hosted. Callers have refused plans with unhosted experts. */
export function placesOf(problem: Problem): Places | undefined {
  return problem.current?.map((layer) => layer.map((row) => row[0] as number));
}

/** Primaries as planned; replicas of experts that stay are dropped: these policies know none. */
export function affinityPlan(problem: Problem, places: Places): PlanOutput {
  const chain = { layers: problem.L, items: problem.E, ranks: problem.G, flow: expertFlow(problem) };
  const target: Hosts = places.map((layer) => layer.map((g) => [g]));
  const total = problem.input.transitions?.reduce((a, b) => a + b, 0) ?? 0;
  const after = crossing(chain, places);
  const part = (hops: number): string => `${((100 * hops) / Math.max(1, total)).toFixed(1)}%`;
  if (!fitsMemory(problem, target)) return primariesStay(problem.input, "an equal number of experts per rank does not fit the memory");
  const primaries = placesOf(problem);
  if (!primaries) return { layers: toLayers(problem, target), reason: `${part(after)} of the transitions change rank` };
  const before = crossing(chain, primaries);
  if (after > before * (1 - worthwhile) && problem.input.current) {
    return {
      layers: problem.input.current,
      reason: `${part(before)} of the transitions change rank, at best ${part(after)}: primaries stay`,
    };
  }
  const aim: Aim = {
    layer: (l) => hopsSaved(chain, { from: primaries, to: places, layer: l }, total),
    experts: (l, experts, rows, hosts) => hopsSavedBy(chain, experts, { layer: l, rows, hosts }, total),
  };
  const { hosts, layers } = withinBudget(problem, target, aim);
  const reached = crossing(
    chain,
    hosts.map((layer) => layer.map((row) => row[0] as number)),
  );
  return {
    layers: toLayers(problem, hosts),
    reason: `transitions that change rank: ${part(before)} -> ${part(reached)} (${part(after)} without a budget); ${layers} layers move`,
    hops: { before: before / Math.max(1, total), after: reached / Math.max(1, total) },
  };
}

/** Part of all transitions that some experts of a layer save when they go to the primaries of `rows` and all others stay. */
function hopsSavedBy(
  chain: Chain,
  experts: readonly number[],
  change: { readonly layer: number; readonly rows: readonly (readonly number[])[]; readonly hosts: Hosts },
  total: number,
): number {
  const { layer, rows, hosts } = change;
  const hops = (e: number, primary: number | undefined): number => {
    let crossed = 0;
    for (let k = 0; k < chain.items; k++) {
      if (layer > 0 && hosts[layer - 1]?.[k]?.[0] !== primary) crossed += chain.flow(layer - 1, k, e);
      if (layer + 1 < chain.layers && hosts[layer + 1]?.[k]?.[0] !== primary) crossed += chain.flow(layer, e, k);
    }
    return crossed;
  };
  const saved = experts.reduce((sum, e) => sum + hops(e, hosts[layer]?.[e]?.[0]) - hops(e, rows[e]?.[0]), 0);
  return total > 0 ? saved / total : 0;
}

/** Part of all transitions that layer's new primaries save between it and its neighbours when those move too. */
function hopsSaved(
  chain: Chain,
  { from, to, layer }: { readonly from: Places; readonly to: Places; readonly layer: number },
  total: number,
): number {
  let saved = 0;
  for (const l of [layer - 1, layer]) {
    if (l < 0 || l + 1 >= chain.layers) continue;
    const pair = { ...chain, layers: 2, flow: (_: number, i: number, j: number) => chain.flow(l, i, j) };
    saved += crossing(pair, from.slice(l, l + 2)) - crossing(pair, to.slice(l, l + 2));
  }
  return total > 0 ? Math.max(1e-9, saved / total) : 0;
}
