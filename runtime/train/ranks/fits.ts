// Computes the memory of ranks before anything is allocated, and refuses a run that does not fit.
import { totalmem } from "node:os";
import { AppError } from "../../../crds/common.ts";
import { keptValues } from "../../kernels/index.ts";
import type { ModelProgram } from "../../kernels/segment.ts";
import { widthsOf } from "../../kernels/widths.ts";
import { intervalLength, microBatchesIn, microBatchIntervals, subtreesOf } from "../../placement/training/micro-batches.ts";
import { type MemoryProblem, rankBytes } from "../../placement/training/rank-bytes.ts";
import { shadowsOf } from "../../placement/training/shadows.ts";
import type { Layout } from "../model/layout.ts";
import { floatsMax } from "../optimizers/kernel.ts";
import { type AskedOptimizer, sharedBy, stateBytes } from "../optimizers/open.ts";
import { borrowedFloats } from "../passes/borrowed.ts";
import { perturbationRadius } from "../recipes/index.ts";
import { firstPrimaries, ownedDense, ownedFloats, type Shape, shapeOf } from "./model-shape.ts";
import type { Fssdp, RankFacts } from "./step-plan.ts";

export interface RankedModel extends AskedOptimizer {
  readonly program: ModelProgram;
  readonly layout: Layout;
  readonly facts: RankFacts;
  readonly fssdp: Fssdp;
  readonly frozenFloats?: number;
  readonly microBatches: number;
  readonly sequences: number;
  readonly sequenceLength: number;
  /** Whether another rank stores the same state of what each owns. */
  readonly shadow?: boolean | undefined;
}

/** Bytes of this machine or its container, divided by the worlds that share them. */
export function memoryThere(worlds = 1): number {
  const limit = process.constrainedMemory(); // 0 means no limit.
  return (limit > 0 ? Math.min(limit, totalmem()) : totalmem()) / worlds;
}

const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(bytes < 1e8 ? 4 : 1)} GB`;

/** What the ranks of a model have in common; it is slow to compute for many experts and layers. */
interface Alike {
  readonly shape: Shape;
  readonly primaries: readonly (readonly number[])[];
  readonly shadows: readonly number[];
  /** Floats of the embedding that the head shares. */
  readonly tied: number;
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

/** The memory of a rank in a step in which every expert has rows of every micro-batch. */
export function memoryProblem(model: RankedModel, rank: number, alike = alikeOf(model)): MemoryProblem {
  const { facts, fssdp, ...batch } = model;
  const { shape, primaries, shadows } = alike;
  const ranks = facts.node.length;
  const owned = primaries.map((row) => row.filter((primary) => primary === rank).length);
  const shadowed = ownedFloats(shape, shadows.indexOf(rank), ranks);
  const each = sharedBy(model, shadows.length > 0 ? 2 : 1);
  const own = microBatchIntervals(fssdp.microBatchesAtOnce, facts.speed)[rank] ?? { from: 0, to: 0 };
  const perturbs = perturbationRadius(model.recipes) > 0;
  const ownFloats = ownedFloats(shape, rank, ranks);
  const tokens = intervalLength(own) * (batch.sequences / batch.microBatches) * batch.sequenceLength;
  return {
    dense: shape.denseFloats,
    denseOwned: intervalLength(ownedDense(shape, rank)),
    tied: alike.tied,
    subtrees: subtreesOf(microBatchesIn(own, fssdp.microBatchesAtOnce, batch.microBatches)).most,
    frozen: batch.frozenFloats ?? 0,
    expert: shape.expertFloats,
    owned: owned.reduce((a, b) => a + b, 0),
    shadowed,
    stateBytes: stateBytes(each, ownFloats) + stateBytes(each, shadowed),
    perturbed: perturbs ? ownFloats + (ranks > 1 ? shape.denseFloats : 0) : 0,
    expertReplicas: primaries.map((row, layer) => Math.min(fssdp.memorySlots, row.length - (owned[layer] as number))),
    rematerialize: fssdp.rematerialize === "AfterForward",
    // The partial sum that backward adds to, and with several ranks those that wait for earlier micro-batches, of two
    // layers.
    partials: 1 + (ranks > 1 ? 2 * fssdp.microBatchesAtOnce * Math.max(0, ...owned) : 0),
    kept: tokens * alike.kept,
  };
}

const floatsOf = ({ owned, expert, denseOwned, shadowed }: MemoryProblem): number => owned * expert + denseOwned + shadowed;

/** Throws AppError `DoesNotFit`, with the sum and its parts, for the first of these ranks of one machine that does not fit. */
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

export function checkRanks(model: RankedModel, memory?: number): void {
  const alike = alikeOf(model);
  for (const rank of model.facts.node.keys()) checkMemory(model, [rank], memory, alike);
}

/** Whether each rank fits on a machine of its own. */
export function fitsRanks(model: RankedModel, memory = memoryThere()): boolean {
  const alike = alikeOf(model);
  return model.facts.node.every((_, rank) => {
    const problem = memoryProblem(model, rank, alike);
    return floatsOf(problem) <= floatsMax && rankBytes(problem).all <= memory;
  });
}

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

/** Whether a world can begin beside the state that is held from the one before. */
export function fitsBeside(model: RankedModel, rank: number, heldBytes: number, memory = memoryThere()): boolean {
  const { state, sums } = rankBytes(memoryProblem(model, rank));
  return heldBytes + state + sums <= memory;
}

/** Whether the world fits, and this rank can begin it beside the state that it holds. */
export const takesOver = (model: RankedModel, rank: number, heldBytes: number, memory = memoryThere()): boolean =>
  fitsRanks(model, memory) && fitsBeside(model, rank, heldBytes, memory);

/**
 * The share of the free memory in which forward may store values for backward. The rest is for rows and frames, which the estimate
 * leaves out.
 */
const keptShare = 1 / 4;

export function keptBudgetFor(model: RankedModel, rank: number, memory: number): number {
  const left = memory - rankBytes(memoryProblem(model, rank)).all;
  return Math.max(0, Math.floor((keptShare * left) / Float32Array.BYTES_PER_ELEMENT));
}

interface Reckoned extends Omit<ReturnType<typeof rankBytes>, "all"> {
  readonly rank: number;
  readonly floats: number;
  readonly all: number;
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

/** Floats per token that forward stores for backward: the layer's input, and what its block writes. */
export function keptFloats(layer: ModelProgram["layers"][number]): number {
  const { inputs, ops, outputs } = layer.block;
  const input = inputs.reduce((sum, { width }) => sum + width, 0);
  if (layer.kind === "dense") return input;
  const widths = widthsOf(layer.block);
  const names = new Set([...outputs.map(({ name }) => name), ...keptValues(ops)]);
  return [...names].reduce((sum, name) => sum + (name === "h" ? 0 : (widths.get(name) ?? 0)), input);
}
