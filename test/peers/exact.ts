// The optimum for small models. Serving: per layer a mixed-integer program over hosts and weights that minimises the worst rank and,
// among equals, the expert replicas to make. Training: all placements of a layer are tried.
import { AppError } from "../../crds/common.ts";
import { planIncremental } from "../../operator/planner/policies/incremental.ts";
import type { PlacementPolicy, PlanInput, PlanOutput } from "../../operator/planner/policy.ts";
import { type Hosts, layerDemand, type Problem, someUnhosted, toLayers, toProblem } from "../../operator/planner/problem.ts";
import { withinBudget, worstOf } from "../../operator/planner/search/within-budget.ts";
import type { Materialised } from "../../runtime/placement/calibrate.ts";
import { sum } from "../../runtime/placement/imbalance.ts";
import { secondsOf, wayOf } from "../../runtime/placement/training/planners/index.ts";
import { type LayerProblem, primariesOnly, type TrainingPlanner } from "../../runtime/placement/training/planners/planner.ts";
import { type Program, solve } from "./solver.ts";

/** Experts x ranks of a layer is what makes it hard; a plan of this size takes seconds. */
const cellsMax = 2560;
/** Branch-and-bound nodes per layer; what is not proven by then is planned incrementally. */
const nodesPerLayer = 2000;
const gap = 5e-4;
/** A new expert replica is worth less than any real gain of balance. */
const pricePerExpertReplica = 1e-5;

export const exact: PlacementPolicy = {
  name: "exact",
  summary: "optimal placement per layer by mixed-integer programming; small models only",
  keepsCurrent: true,
  cellsMax,
  plan: planExact,
};

interface ExactOutput extends PlanOutput {
  /** True for each layer whose hosts before any budget are within the gap of the optimum. */
  readonly proven: readonly boolean[];
}

export async function planExact(input: PlanInput): Promise<ExactOutput> {
  const problem = toProblem(input);
  const none = new Array<boolean>(problem.L).fill(false);
  if (someUnhosted(problem))
    return { ...planIncremental(input), reason: "memory does not hold every expert: planned incrementally", proven: none };
  // The fallback serves where the solver ends without an answer, and as the bar it must clear.
  const fallback = toProblem({ ...input, current: planIncremental({ ...input, current: undefined }).layers }).current as Hosts;
  const room = problem.capacity.slice();
  const proven: boolean[] = [];
  const target: Hosts = [];
  for (let l = 0; l < problem.L; l++) {
    const found = await solveLayer(problem, l, roomOf(problem, l, room));
    proven.push(found !== undefined);
    const other = problem.slotCap === Number.POSITIVE_INFINITY ? undefined : (fallback[l] as number[][]);
    const better = found && (!other || worstOf(problem, l, found) <= worstOf(problem, l, other));
    const hosts = better ? found : other;
    if (!hosts)
      return {
        ...planIncremental(input),
        reason: `layer ${l} is not proven within ${nodesPerLayer} nodes: planned incrementally`,
        proven: none,
      };
    target.push(hosts);
    hosts.forEach((row, e) => {
      for (const g of row) room[g] = (room[g] as number) - (input.shape.residentBytes[l * problem.E + e] as number);
    });
  }
  const { hosts, layers } = withinBudget(problem, target);
  const count = proven.filter((yes) => yes).length;
  return { layers: toLayers(problem, hosts), reason: `${count} of ${problem.L} layers proven optimal, ${layers} changed`, proven };
}

/** Bytes of each rank that this layer may take: its part of what the layers still to come need. */
function roomOf(problem: Problem, layer: number, room: Float64Array): Float64Array {
  if (problem.slotCap !== Number.POSITIVE_INFINITY) return room;
  const { residentBytes } = problem.input.shape;
  const own = sum(residentBytes.subarray(layer * problem.E, (layer + 1) * problem.E));
  const rest = sum(residentBytes.subarray(layer * problem.E));
  return room.map((bytes) => (rest > 0 ? (bytes * own) / rest : bytes));
}

async function solveLayer(problem: Problem, layer: number, room: Float64Array): Promise<number[][] | undefined> {
  if (problem.experts[layer] === 0) return [];
  const solved = await solve(layerProgram(problem, layer, room), { nodes: nodesPerLayer, gap });
  if (!solved) return undefined;
  const current = problem.current?.[layer];
  const hosts = Array.from({ length: problem.experts[layer] as number }, (_, e) => {
    const row = Array.from({ length: problem.G }, (_, g) => g).filter((g) => solved.value(`x${e}_${g}`) > 0.5);
    // The primary stays first where it stays at all.
    const primary = current?.[e]?.[0];
    return primary !== undefined && row.includes(primary) ? [primary, ...row.filter((g) => g !== primary)] : row;
  });
  return hosts.every((row) => row.length > 0) ? hosts : undefined;
}

/** Columns: m = worst normalised load; x = hosted; y = rows, in units of the mean rank. */
function layerProgram(problem: Problem, layer: number, room: Float64Array): Program {
  const { E, G, input } = problem;
  const demand = layerDemand(problem, layer);
  const mean = sum(demand) / Math.max(1, G) || 1;
  const experts = Array.from(demand, (_, e) => e);
  const ranks = Array.from({ length: G }, (_, g) => g);
  const minimise: [string, number][] = [["m", 1]];
  const rows: Program["rows"][number][] = [];
  const current = problem.current?.[layer];
  for (const e of experts) {
    const w = (demand[e] as number) / mean;
    rows.push({ terms: ranks.map((g) => [`y${e}_${g}`, 1] as const), sense: "=", rhs: w });
    rows.push({ terms: ranks.map((g) => [`x${e}_${g}`, 1] as const), sense: ">=", rhs: Math.min(Math.max(1, input.minExpertReplicas), G) });
    for (const g of ranks) {
      rows.push({
        terms: [
          [`y${e}_${g}`, 1],
          [`x${e}_${g}`, -w],
        ],
        sense: "<=",
        rhs: 0,
      });
      if (!current?.[e]?.includes(g)) minimise.push([`x${e}_${g}`, pricePerExpertReplica]);
      if ((problem.speed[g] as number) <= 0) rows.push({ terms: [[`x${e}_${g}`, 1]], sense: "=", rhs: 0 });
    }
  }
  for (const g of ranks) {
    rows.push({ terms: [...experts.map((e) => [`y${e}_${g}`, 1] as const), ["m", -(problem.speed[g] as number)]], sense: "<=", rhs: 0 });
    if (Number.isFinite(problem.slotCap))
      rows.push({ terms: experts.map((e) => [`x${e}_${g}`, 1] as const), sense: "<=", rhs: problem.slotCap });
    const limit = room[g] as number;
    if (Number.isFinite(limit)) {
      const unit = problem.staging || 1;
      rows.push({
        terms: experts.map((e) => [`x${e}_${g}`, (input.shape.residentBytes[layer * E + e] as number) / unit] as const),
        sense: "<=",
        rhs: limit / unit,
      });
    }
  }
  rows.push({ terms: [["m", 1]], sense: ">=", rhs: sum(demand) > 0 ? 1 : 0 });
  return { minimise, rows, binaries: experts.flatMap((e) => ranks.map((g) => `x${e}_${g}`)) };
}

/** Placements that are tried, at most: a second or two. */
const placementsMax = 20_000;

/** Sets of at most `most` of the items. */
function subsets(items: readonly number[], most: number): number[][] {
  const [first, ...rest] = items;
  if (first === undefined || most <= 0) return [[]];
  return [...subsets(rest, most), ...subsets(rest, most - 1).map((set) => [first, ...set])];
}

/** Sets of at most `most` of so many items. */
function subsetCount(items: number, most: number): number {
  let [count, all] = [1, 1];
  for (let size = 1; size <= Math.min(items, most); size++) {
    count = (count * (items - size + 1)) / size;
    all += count;
  }
  return all;
}

function tried(problem: LayerProblem): number[][] {
  const { primaries, free } = problem;
  const foreign = free.map((_, rank) => primaries.map((_, e) => e).filter((e) => primaries[e] !== rank));
  const count = free.reduce((product, room, rank) => product * subsetCount(foreign[rank]?.length ?? 0, room), 1);
  if (count > placementsMax)
    throw new AppError(`planner exact has ${count} placements to try, it tries up to ${placementsMax}; take planner auto, or fewer slots`, {
      code: "BadOption",
      operation: "planning a layer",
    });
  let best: Materialised = wayOf(problem, primariesOnly(problem));
  let least = secondsOf(problem, best);
  const tryFrom = (rank: number, found: readonly (readonly number[])[]): void => {
    if (rank === free.length) {
      const way = wayOf(
        problem,
        found.map((row) => row.slice()),
      );
      const seconds = secondsOf(problem, way);
      if (seconds < least) [best, least] = [way, seconds];
      return;
    }
    for (const set of subsets(foreign[rank] as number[], free[rank] as number))
      tryFrom(
        rank + 1,
        found.map((row, e) => (set.includes(e) ? [...row, rank] : row)),
      );
  };
  tryFrom(0, primariesOnly(problem));
  return best.hosts;
}

/** The best placement of a layer in training: all of them are tried. */
export const exactTraining: TrainingPlanner = { late: false, hosts: tried };
