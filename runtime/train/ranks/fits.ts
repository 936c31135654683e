// The memory of ranks, reckoned by the law of memory before anything is allocated, and refused where a machine has less.
import { totalmem } from "node:os";
import { AppError } from "../../../crds/common.ts";
import type { ModelProgram } from "../../kernels/segment.ts";
import { laneIntervals, lanesIn, lanesOfWaves, subtreesOf } from "../../placement/training/lanes.ts";
import { type MemoryProblem, rankBytes } from "../../placement/training/laws.ts";
import { shadowsOf } from "../../placement/training/shadows.ts";
import type { Layout } from "../model/layout.ts";
import { floatsMax } from "../optimizers/kernel.ts";
import { type AskedOptimizer, sharedBy, stateBytes } from "../optimizers/open.ts";
import { borrowedFloats } from "../passes/borrowed.ts";
import { keptFloats } from "../passes/kept.ts";
import { perturbationRadius } from "../recipes/index.ts";
import { firstPrimaries, ownedDense, ownedFloats, type Shape, shapeOf } from "./model-shape.ts";
import type { Fssdp, RankFacts } from "./step-plan.ts";

/** What decides the memory of ranks. */
export interface RankedModel extends AskedOptimizer {
  readonly program: ModelProgram;
  readonly layout: Layout;
  readonly facts: RankFacts;
  readonly fssdp: Fssdp;
  /** Floats that are read and not trained, whole on every rank; none where left out. */
  readonly frozenFloats?: number;
  readonly microBatches: number;
  readonly sequences: number;
  readonly sequenceLength: number;
  /** Whether another rank keeps the same state of what each owns; unset: none does. */
  readonly shadow?: boolean | undefined;
}

/** Bytes of this machine, or of the container where that has a limit, for each of the worlds that share them. */
export function memoryThere(worlds = 1): number {
  const limit = process.constrainedMemory(); // 0 without one
  return (limit > 0 ? Math.min(limit, totalmem()) : totalmem()) / worlds;
}

/** Small models have their digits too. */
const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(bytes < 1e8 ? 4 : 1)} GB`;

/** What the memory of a model's ranks has alike; of many experts and layers it takes long to find. */
interface Alike {
  readonly shape: Shape;
  readonly primaries: readonly (readonly number[])[];
  /** Of each rank, who shadows it; empty where nobody does. */
  readonly shadows: readonly number[];
  /** Of the embedding that the head has too. */
  readonly tied: number;
  /** Floats that layers keep of a token. */
  readonly kept: number;
}

function alikeOf({ program, layout, facts, shadow }: RankedModel): Alike {
  const ranks = facts.node.length;
  const shape = shapeOf(layout, ranks);
  return {
    shape,
    primaries: firstPrimaries(shape, ranks),
    shadows: shadow ? shadowsOf(facts.node) : [],
    tied: borrowedFloats(program, shape.dense),
    kept: program.layers.reduce((sum, layer) => sum + keptFloats(layer), 0),
  };
}

/** What a rank holds in a step in which every expert has rows of every micro-batch. */
export function memoryProblem(model: RankedModel, rank: number, alike = alikeOf(model)): MemoryProblem {
  const { facts, fssdp, ...batch } = model;
  const { shape, primaries, shadows } = alike;
  const ranks = facts.node.length;
  const owned = primaries.map((row) => row.filter((primary) => primary === rank).length);
  const shadowed = ownedFloats(shape, shadows.indexOf(rank), ranks);
  const each = sharedBy(model, shadows.length > 0 ? 2 : 1);
  const own = laneIntervals(fssdp.microBatchesAtOnce, facts.speed)[rank] ?? { from: 0, to: 0 };
  const perturbs = perturbationRadius(model.recipes) > 0;
  const ownFloats = ownedFloats(shape, rank, ranks);
  const tokens = lanesIn(own) * (batch.sequences / batch.microBatches) * batch.sequenceLength;
  return {
    dense: shape.denseFloats,
    denseOwned: lanesIn(ownedDense(shape, rank)),
    tied: alike.tied,
    subtrees: subtreesOf(lanesOfWaves(own, fssdp.microBatchesAtOnce, batch.microBatches)).most,
    frozen: batch.frozenFloats ?? 0,
    expert: shape.expertFloats,
    owned: owned.reduce((a, b) => a + b, 0),
    shadowed,
    stateBytes: stateBytes(each, ownFloats) + stateBytes(each, shadowed),
    perturbed: perturbs ? ownFloats + (ranks > 1 ? shape.denseFloats : 0) : 0,
    expertReplicas: primaries.map((row, layer) => Math.min(fssdp.memorySlots, row.length - (owned[layer] as number))),
    rematerialize: fssdp.rematerialize === "AfterForward",
    // The one that backward adds to; among ranks, those that wait for the sum of the micro-batches before, of a layer and of the one after it.
    partials: 1 + (ranks > 1 ? 2 * fssdp.microBatchesAtOnce * Math.max(0, ...owned) : 0),
    kept: tokens * alike.kept,
  };
}

const floatsOf = ({ owned, expert, denseOwned, shadowed }: MemoryProblem): number => owned * expert + denseOwned + shadowed;

/** Throws AppError `DoesNotFit`, with the sum and its parts, for the first of these ranks of one machine that is too many. */
export function checkMemory(model: RankedModel, ranks: readonly number[], memory = memoryThere(), alike = alikeOf(model)): void {
  let before = 0;
  for (const rank of ranks) {
    const problem = memoryProblem(model, rank, alike);
    const { sums, kept, all } = rankBytes(problem);
    const floats = floatsOf(problem);
    if (floats > floatsMax || before + all > memory)
      refuse(model, { rank, floats, state: problem.stateBytes, sums, kept, all, before, memory });
    before += all;
  }
}

/** Throws the same for the first of all ranks, each on a machine of its own. */
export function checkRanks(model: RankedModel, memory?: number): void {
  const alike = alikeOf(model);
  for (const rank of model.facts.node.keys()) checkMemory(model, [rank], memory, alike);
}

/** Whether each of the ranks, on a machine of its own, has room for its part. */
export function fitsRanks(model: RankedModel, memory = memoryThere()): boolean {
  const alike = alikeOf(model);
  return model.facts.node.every((_, rank) => {
    const problem = memoryProblem(model, rank, alike);
    return floatsOf(problem) <= floatsMax && rankBytes(problem).all <= memory;
  });
}

/** The memory of the rank that needs most, and its parts, for people. */
export function neededText(model: RankedModel): string {
  const alike = alikeOf(model);
  const all = model.facts.node.map((_, rank) => rankBytes(memoryProblem(model, rank, alike)));
  const most = all.reduce((a, b) => (b.all > a.all ? b : a));
  const parts = [
    `${gigabytes(most.state)} of parameters, gradients and ${model.optimizer.name}'s state`,
    `${gigabytes(most.sums)} of copies, sums and the dense part`,
    `${gigabytes(most.kept)} that layers keep`,
  ];
  return `${gigabytes(most.all)} (${parts.join(", ")})`;
}

/** Whether a world can begin with what is held from the one before beside it. Layers keep nothing yet then. */
export function fitsBeside(model: RankedModel, rank: number, heldBytes: number, memory = memoryThere()): boolean {
  const { state, sums } = rankBytes(memoryProblem(model, rank));
  return heldBytes + state + sums <= memory;
}

/** Whether a world has room for the model, and this rank of it to begin beside what it holds. */
export const takesOver = (model: RankedModel, rank: number, heldBytes: number, memory = memoryThere()): boolean =>
  fitsRanks(model, memory) && fitsBeside(model, rank, heldBytes, memory);

/** The share of what the law leaves of the memory, which forward may use for values that backward then need not compute again. The rest is
 *  for rows and frames of a step, which the law does not count. */
const keptShare = 1 / 4;

/** Floats that forward of this rank may keep. */
export function keptBudgetFor(model: RankedModel, rank: number, memory: number): number {
  const left = memory - rankBytes(memoryProblem(model, rank)).all;
  return Math.max(0, Math.floor((keptShare * left) / Float32Array.BYTES_PER_ELEMENT));
}

interface Reckoned extends Omit<ReturnType<typeof rankBytes>, "all"> {
  readonly rank: number;
  readonly floats: number;
  readonly all: number;
  /** Of other ranks here. */
  readonly before: number;
  readonly memory: number;
}

function refuse(
  { facts, fssdp, microBatches, optimizer, shadow }: RankedModel,
  { rank, floats, state, sums, kept, all, before, memory }: Reckoned,
): never {
  const ranks = facts.node.length;
  const who = ranks > 1 ? `rank ${rank} of ${ranks}: ` : "";
  const others = before > 0 ? `, ranks before it here ${gigabytes(before)}` : "";
  const atOnce = fssdp.microBatchesAtOnce;
  // Of several ranks are jobs alone.
  const among = 'more spec.replicas, fssdp.rematerialize "AfterForward", fewer fssdp.memorySlots or fssdp.microBatchesAtOnce';
  const more = ranks > 1 ? `${among}${shadow ? ", spec.failurePolicy.shadow false" : ""}` : "fewer --micro-batches";
  throw new AppError(
    `${who}${floats} parameters x 8 bytes (parameter, gradient), ${gigabytes(state)} of ${optimizer.name}'s state in memory, ` +
      `${gigabytes(sums)} of copies, of sums of ` +
      `${microBatches} micro-batches and of the dense part, and ${gigabytes(kept)} that layers keep of ${atOnce} ${atOnce > 1 ? "micro-batches" : "micro-batch"} at once ` +
      `are ${gigabytes(all)}${others}; the memory here is ${gigabytes(memory)}, and a rank owns ${floatsMax} parameters at most; ` +
      `give more memory, or less --optimizer-memory, or take a smaller model, ${more}, no loss of --balance, or fewer --sequences`,
    { code: "DoesNotFit", operation: "starting a run" },
  );
}
