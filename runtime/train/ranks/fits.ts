// Ranks that do not fit into a machine's memory, by the law of memory, are refused before any of them allocates.
import { AppError } from "../../../crds/common.ts";
import type { ModelProgram } from "../../kernels/segment.ts";
import { type Interval, laneIntervals, lanesIn, subtreesMost } from "../../placement/training/lanes.ts";
import { type MemoryProblem, rankBytes } from "../../placement/training/laws.ts";
import type { Layout, Unit } from "../layout.ts";
import { gigabytes, memoryThere } from "../memory.ts";
import { tiedFloats } from "../network.ts";
import { floatsMax } from "../optimizers/kernel.ts";
import { type AskedOptimizer, stateBytes } from "../optimizers/open.ts";
import type { Fssdp, RankFacts } from "./plan.ts";
import { firstHomes, ownedDense, ownedFloats, shapeOf } from "./shape.ts";

/** What decides the memory of ranks. */
export interface RankedModel extends AskedOptimizer {
  readonly program: ModelProgram;
  readonly layout: Layout;
  readonly facts: RankFacts;
  readonly fssdp: Fssdp;
  readonly lanes: number;
}

/** What a rank holds in a step in which every expert has rows of every lane. */
export function memoryProblem(options: RankedModel, rank: number): MemoryProblem {
  const { program, layout, facts, fssdp, lanes } = options;
  const ranks = facts.node.length;
  const shape = shapeOf(layout, ranks);
  const homes = firstHomes(shape, ranks);
  const owned = homes.map((row) => row.filter((home) => home === rank).length);
  return {
    dense: shape.denseFloats,
    denseOwned: lanesIn(ownedDense(shape, rank)),
    tied: tiedFloats(program, shape.dense[0] as Unit),
    subtrees: subtreesMost(laneIntervals(lanes, facts.speed)[rank] as Interval),
    expert: shape.expertFloats,
    stateBytes: stateBytes(options, ownedFloats(shape, rank, ranks)),
    owned: owned.reduce((a, b) => a + b, 0),
    copies: homes.map((row, layer) => Math.min(fssdp.memorySlots, row.length - (owned[layer] as number))),
    rematerialize: fssdp.rematerialize === "AfterForward",
    partials: lanes * Math.max(0, ...owned),
  };
}

/** Throws AppError `DoesNotFit`, with the first rank that is too many, for ranks of one machine. */
export function checkRanks(options: RankedModel, ranks: readonly number[], memory = memoryThere()): void {
  let all = 0;
  for (const rank of ranks) {
    const problem = memoryProblem(options, rank);
    const [bytes, floats] = [rankBytes(problem), problem.owned * problem.expert + problem.denseOwned];
    all += bytes;
    if (floats <= floatsMax && all <= memory) continue;
    const [before, most] = [all - bytes, Math.floor(memory)];
    throw new AppError(
      `rank ${rank} with ${problem.owned} experts of ${problem.expert} parameters needs ${bytes} bytes (${gigabytes(bytes)}), ranks before ` +
        `it here ${before}, the memory here is ${most} and a rank owns ${floatsMax} parameters at most; give more memory or more ranks, or ` +
        'take fewer lanes, fewer memorySlots or rematerialize "AfterForward"',
      { code: "DoesNotFit", operation: "opening ranks" },
    );
  }
}
