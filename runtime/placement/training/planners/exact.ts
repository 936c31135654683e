// The best expert replicas of all there are, by trying them: what other planners are measured against, for small layers. Pure.
import { AppError } from "../../../../crds/common.ts";
import type { Materialised } from "../../calibrate.ts";
import { type LayerProblem, primariesOnly, type TrainingPlanner } from "./planner.ts";
import { secondsOf, wayOf } from "./ways.ts";

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

function hosts(problem: LayerProblem): number[][] {
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

export const exact: TrainingPlanner = { late: false, hosts };
