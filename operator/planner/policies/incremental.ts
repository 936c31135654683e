// The default policy: it takes the steps from the current placement that pay, over all layers at once. Small models get an annealed
// search per layer afterwards.

import { sum } from "../../../runtime/placement/imbalance.ts";
import { type PlacementPolicy, type PlanInput, type PlanOutput, unlimited } from "../policy.ts";
import { type Hosts, layerDemand, type Problem, toLayers, toProblem } from "../problem.ts";
import { firstPlan } from "../repair.ts";
import { freshHosts } from "../search/incremental/fresh.ts";
import { type Improved, type ImproveOptions, improve } from "../search/incremental/improve.ts";
import { polishSmall, smallCellsMax } from "../search/incremental/small.ts";
import type { SearchWidth } from "../search/incremental/step.ts";

const widths: Record<PlanInput["effort"], SearchWidth> = {
  fast: { hot: 1, cold: 8, experts: 4 },
  quality: { hot: 4, cold: 24, experts: 9 },
};
const thetas: Record<PlanInput["effort"], number> = { fast: 5e-4, quality: 1.5e-4 };
/** Where only bytes count, a replica must gain this multiple of another layer's to replace it. */
const sharedMemoryFactor = 4.1;
/** A layer is entered above the first value and left at the second. */
const enterAt: Record<PlanInput["effort"], number> = { fast: 1.05, quality: 1.03 };
const leaveAt = 1.02;
/** Where replicas must gain much, a layer is entered only above this. */
const quiet = { gainPerMove: 1e-3, enter: 1.05 } as const;
const reconcileAt = { perLayer: 0.08, shared: 0.4 } as const;
const usualTheta = 5e-4;
/**
 * The part of the load, as a multiple of `unrest`, that is planned as even, since nobody knows which experts will be hot next. It pays
 * only where weights follow the load (PlanInput.unrest).
 */
const hedgePerUnrest = 3;
const hedgeMax = 0.3;
const piecesTried = 300;
const stepsPerRank = 40;

export const incremental: PlacementPolicy = {
  name: "incremental",
  summary: "moves and expert replicas only what pays for its transfer, from the current placement",
  keepsCurrent: true,
  keepsNear: true,
  cellsMax: Number.POSITIVE_INFINITY,
  plan: planIncremental,
};

export function planIncremental(input: PlanInput): PlanOutput {
  if (!input.current) return planFresh(input);
  const exact = toProblem(input);
  const problem = hedged(exact);
  const options: ImproveOptions = {
    theta: input.gainPerMove ?? thetas[input.effort] * (Number.isFinite(problem.slotCap) ? 1 : sharedMemoryFactor),
    enter: (input.gainPerMove ?? 0) >= quiet.gainPerMove ? quiet.enter : enterAt[input.effort],
    leave: leaveAt,
    width: widthOf(problem, problem.current as Hosts),
    stepsMax: problem.L * problem.G * stepsPerRank,
    ...(problem.E * problem.G > smallCellsMax && input.split === "weighted"
      ? {
          reconcileAt:
            reconcileAt[Number.isFinite(problem.slotCap) ? "perLayer" : "shared"] * Math.max(1, (input.gainPerMove ?? 0) / usualTheta),
        }
      : {}),
  };
  const current = problem.current as Hosts;
  const improved = improve(problem, current, options);
  const polished = problem.E * problem.G <= smallCellsMax ? polishSmall(problem, improved.hosts, options) : improved.hosts;
  return { layers: toLayers(exact, polished), reason: describe(improved) };
}

/** The same problem with part of each layer's load spread evenly; weights use the true forecast. */
function hedged(problem: Problem): Problem {
  const { input, L, E, G, experts } = problem;
  const part = Math.min(hedgeMax, hedgePerUnrest * (input.unrest ?? 0));
  // With shared memory, slots already go where variance is: hedging twice costs measured balance.
  if (part <= 0 || E * G <= smallCellsMax || input.split !== "weighted" || !Number.isFinite(problem.slotCap)) return problem;
  const load = input.load.map((rows) => (1 - part) * rows);
  for (let l = 0; l < L; l++) {
    const count = experts[l] as number;
    const even = (part * sum(layerDemand(problem, l))) / count;
    for (let e = 0; e < count; e++) load[l * E + e] = (load[l * E + e] as number) + even;
  }
  return { ...problem, input: { ...input, load } };
}

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
  const expertReplicas = hosts.reduce((n, layer) => n + layer.reduce((m, row) => m + row.length, 0), 0);
  const perRank = expertReplicas / Math.max(1, problem.L * problem.G);
  return { ...width, cold: Math.max(width.cold, Math.ceil(piecesTried / Math.max(1, perRank))) };
}

function describe({ steps, limited }: Improved): string {
  const parts = Object.entries(steps)
    .filter(([, count]) => count > 0)
    .map(([kind, count]) => `${count} ${kind}`);
  const what = parts.length > 0 ? `steps: ${parts.join(", ")}` : "no step is worth its transfer";
  return limited ? `${what}; the move budget ended it` : what;
}
