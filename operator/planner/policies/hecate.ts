// Hecate's algorithms (arXiv 2502.02581) as a serving policy: homes by heterogeneous sharding (Algorithm 2), re-sharded
// rarely; copies by sparse materialisation (Algorithm 1) in the slots that are free. Load estimate, budget and shares
// are the planner's.

import { sum } from "../../../runtime/placement/imbalance.ts";
import { materialize } from "../../../runtime/placement/materialize.ts";
import { shardHomes } from "../../../runtime/placement/shard.ts";
import type { PlacementPolicy, PlanInput, PlanOutput } from "../policy.ts";
import { type Hosts, homesOf, layerDemand, type Problem, toLayers, toProblem, usedBytes } from "../problem.ts";
import { firstPlan } from "../repair.ts";
import { relabelled } from "../search/relabel.ts";
import { withinBudget, worstOf } from "../search/within-budget.ts";

/** Overlap degree used where none is measured: larger ones are never worse (16 and less clearly are). */
const overlap = 32;
/**
 * fix: copies never take the last slots of a rank. New homes arrive before old ones leave, so a rank full of copies could
 * not be re-sharded any more.
 */
const reserve = 3;
/** A layer at or below this needs no more copies. */
const balanced = 1.04;
/** New homes must beat the present ones by this much of max/mean before anything is re-sharded. */
const reshardGain = 0.05;

export const hecate: PlacementPolicy = {
  name: "hecate",
  summary: "heterogeneous sharding and sparse materialisation of the Hecate paper",
  keepsCurrent: true,
  usesTransitions: false,
  cellsMax: Number.POSITIVE_INFINITY,
  plan: planHecate,
};

function planHecate(input: PlanInput): PlanOutput {
  const problem = toProblem(input);
  const top = Math.min(overlap, copiesPerLayer(problem), Math.ceil(problem.E / 4));
  const sharded = sharding(problem, top);
  if (!problem.current) {
    const homes = sharded ?? homesOf(toProblem({ ...input, current: firstPlan(input) }).current as Hosts);
    return { layers: toLayers(problem, withCopies(problem, homes, top)), reason: "homes by load, copies of the hottest" };
  }
  const kept = withCopies(problem, homesOf(problem.current), top);
  const fresh = sharded ? withCopies(problem, sharded, top) : kept;
  let resharded = 0;
  const target = kept.map((layer, l) => {
    const better = worstOf(problem, l, fresh[l] as number[][]) < worstOf(problem, l, layer) - reshardGain;
    if (better) resharded++;
    // fix: Algorithm 2 does not care which rank gets which part.
    return better ? relabelled(problem, l, fresh[l] as number[][]) : layer;
  });
  const { hosts, layers } = withinBudget(problem, target);
  return { layers: toLayers(problem, hosts), reason: `materialised ${layers} layers, homes of ${resharded} re-sharded` };
}

/**
 * fix: the paper's t is what the link can hide; where memory holds fewer copies, only that many experts may be placed
 * without regard to load, else the "holes" are filled with hot experts that never get their copies; and never more than
 * a quarter of a layer, or nothing is left to be placed by load.
 */
function copiesPerLayer(problem: Problem): number {
  const { L, E, G, capacity, staging, slotCap } = problem;
  if (slotCap !== Number.POSITIVE_INFINITY) return Math.max(0, slotCap * G - E);
  const slots = capacity.reduce((n, bytes) => n + (staging > 0 ? Math.max(0, Math.floor(bytes / staging + 1e-9)) : L * E), 0);
  return Math.max(0, Math.floor((slots - L * E) / Math.max(1, L)));
}

/** Homes take the part of memory that one copy of every expert needs; the rest is for copies. */
function sharding(problem: Problem, top: number): Hosts | undefined {
  const { shape, load } = problem.input;
  const { L, E, G, speed } = problem;
  const bytes = problem.slotCap === Number.POSITIVE_INFINITY ? shape.residentBytes : new Float64Array(L * E).fill(1);
  const equal = Math.ceil(sum(bytes) / G + (L * E > 0 ? sum(bytes) / (L * E) : 0));
  const capacity =
    problem.slotCap === Number.POSITIVE_INFINITY
      ? problem.capacity.map((room) => Math.min(room, equal))
      : new Float64Array(G).fill(L * Math.ceil(E / G));
  const homes = shardHomes({ layers: L, experts: E, ranks: G, load, bytes, capacity, speed, top })?.map((layer) => layer.map((g) => [g]));
  if (problem.slotCap === Number.POSITIVE_INFINITY || !homes) return homes;
  // A slot cap is per layer: heterogeneous homes that exceed it are for byte budgets only.
  const fits = homes.every((layer) =>
    Array.from({ length: G }, (_, g) => layer.filter((row) => row[0] === g).length).every((n) => n <= problem.slotCap),
  );
  return fits ? homes : undefined;
}

function withCopies(problem: Problem, homes: Hosts, top: number): Hosts {
  const { E, G, L } = problem;
  const unit = problem.staging;
  const used = usedBytes(problem, homes);
  const room = problem.capacity.map((bytes, g) => {
    const free = unit > 0 ? Math.max(0, Math.floor((bytes - (used[g] as number)) / unit + 1e-9)) : L * E;
    return free - Math.min(reserve, Math.floor(free / 3));
  });
  // Free slots of a rank are dealt over the layers with the remainder rotated, so that no layer gets it all.
  const given = new Float64Array(G);
  return homes.map((layer, l) => {
    const free = Array.from({ length: G }, (_, g) => {
      const own = layer.filter((row) => row[0] === g).length;
      if (problem.slotCap !== Number.POSITIVE_INFINITY) return Math.max(0, problem.slotCap - own);
      const slots = Math.max(0, Math.floor(((room[g] as number) * (l + 1)) / L + 1e-9) - (given[g] as number));
      given[g] = (given[g] as number) + slots;
      return Math.min(slots, E - own);
    });
    return frugal(problem, l, (slots) =>
      materialize({
        load: layerDemand(problem, l),
        homes: layer,
        ranks: G,
        node: problem.node,
        free: free.map((n) => Math.min(n, slots)),
        top,
      }),
    );
  });
}

/**
 * fix: in training every copy is made anew each iteration, so all slots are used. In serving a copy stays and is paid once,
 * by a transfer: no more slots per rank are used than bring the layer into balance. Where copies are free, all are used.
 */
function frugal(problem: Problem, layer: number, withSlots: (slots: number) => number[][]): number[][] {
  if (problem.input.gainPerMove === undefined) return withSlots(problem.E);
  let best = withSlots(0);
  let worst = worstOf(problem, layer, best);
  for (let slots = 1; slots <= problem.E && worst > balanced; slots++) {
    const hosts = withSlots(slots);
    const ratio = worstOf(problem, layer, hosts);
    if (ratio >= worst) continue;
    best = hosts;
    worst = ratio;
  }
  return best;
}
