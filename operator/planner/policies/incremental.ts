// The default policy: starts from what is hosted and takes the steps that pay, over all layers at once, until nothing
// pays or the budget is spent. Small models get an annealed search per layer afterwards.

import { type PlacementPolicy, type PlanInput, type PlanOutput, unlimited } from "../policy.ts";
import { type Hosts, type Problem, toLayers, toProblem } from "../problem.ts";
import { firstPlan } from "../repair.ts";
import { freshHosts } from "../search/fresh.ts";
import { type Improved, type ImproveOptions, improve } from "../search/improve.ts";
import type { SearchWidth } from "../search/moves.ts";
import { polishSmall, smallCellsMax } from "../search/small.ts";

const widths: Record<PlanInput["effort"], SearchWidth> = {
  fast: { hot: 1, cold: 8, experts: 4, chains: false },
  quality: { hot: 4, cold: 24, experts: 9, chains: true },
};
/** Least decrease of max/mean per copy, by effort. */
const thetas: Record<PlanInput["effort"], number> = { fast: 5e-4, quality: 2e-4 };
/** Where only bytes count, a copy may take the place of another layer's: it must gain more. */
const sharedMemoryFactor = 4;
/** Dead band: a layer is entered above the first and worked on down to the second. */
const enterAt: Record<PlanInput["effort"], number> = { fast: 1.05, quality: 1.03 };
const leaveAt = 1.02;
/** Replica counts out of proportion by this part are set right; more where moves must gain more, or layers share memory. */
const reconcileAt = { perLayer: 0.05, shared: 0.2 } as const;
const usualTheta = 5e-4;
/** Experts on cold ranks that a quality search looks at: where ranks hold few, it looks at more ranks. */
const piecesTried = 300;
const stepsPerRank = 40;

export const incremental: PlacementPolicy = {
  name: "incremental",
  summary: "moves and copies only what pays for its transfer, from the current placement",
  keepsCurrent: true,
  usesTransitions: false,
  cellsMax: Number.POSITIVE_INFINITY,
  plan: planIncremental,
};

/** The default policy's plan; without a current placement a fresh one. Total: what gains nothing changes nothing. */
export function planIncremental(input: PlanInput): PlanOutput {
  const problem = toProblem(input);
  if (!problem.current) return planFresh(input);
  const options: ImproveOptions = {
    theta: input.gainPerMove ?? thetas[input.effort] * (Number.isFinite(problem.slotCap) ? 1 : sharedMemoryFactor),
    enter: enterAt[input.effort],
    leave: leaveAt,
    width: widthOf(problem, problem.current),
    stepsMax: problem.L * problem.G * stepsPerRank,
    ...(problem.E * problem.G > smallCellsMax && input.split === "weighted"
      ? {
          reconcileAt:
            reconcileAt[Number.isFinite(problem.slotCap) ? "perLayer" : "shared"] * Math.max(1, (input.gainPerMove ?? 0) / usualTheta),
        }
      : {}),
  };
  const improved = improve(problem, problem.current, options);
  const polished = problem.E * problem.G <= smallCellsMax ? polishSmall(problem, improved.hosts, options) : improved.hosts;
  return { layers: toLayers(problem, polished), reason: describe(improved) };
}

/** A plan as if nothing were hosted; transfers are free. */
export function planFresh(input: PlanInput): PlanOutput {
  const free = toProblem({ ...input, current: undefined, budget: unlimited });
  const start = freshHosts(free) ?? toProblem({ ...input, current: firstPlan(input) }).current;
  const hosts = polishFresh(free, start as Hosts);
  return { layers: toLayers(free, hosts), reason: "no current placement: planned from nothing" };
}

function polishFresh(problem: Problem, start: Hosts): Hosts {
  const options: ImproveOptions = {
    theta: 1e-5,
    enter: 1,
    leave: 1,
    width: widthOf(problem, start),
    stepsMax: problem.L * problem.G * 4,
  };
  const { hosts } = improve(problem, start, options);
  return problem.E * problem.G <= smallCellsMax ? polishSmall(problem, hosts, { ...options, enter: 1.001, leave: 1.001 }) : hosts;
}

function widthOf(problem: Problem, hosts: Hosts): SearchWidth {
  const width = widths[problem.input.effort];
  if (problem.input.effort === "fast") return width;
  const copies = hosts.reduce((n, layer) => n + layer.reduce((m, row) => m + row.length, 0), 0);
  const perRank = copies / Math.max(1, problem.L * problem.G);
  return { ...width, cold: Math.max(width.cold, Math.ceil(piecesTried / Math.max(1, perRank))) };
}

function describe({ steps, limited }: Improved): string {
  const parts = Object.entries(steps)
    .filter(([, count]) => count > 0)
    .map(([kind, count]) => `${count} ${kind}`);
  const what = parts.length > 0 ? `steps: ${parts.join(", ")}` : "no step is worth its transfer";
  return limited ? `${what}; the move budget ended it` : what;
}
