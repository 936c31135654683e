// The memory that a run needs on its ranks, for any number of them.

import { openSource } from "../model/model-source.ts";
import type { TrainedModel } from "../model/trained-model.ts";
import { fitsRanks, type RankedModel } from "../ranks/fits.ts";
import { fssdpOf } from "../ranks/fssdp.ts";
import type { RankFacts } from "../ranks/step-plan.ts";
import { having, trainedModel } from "../recipes/index.ts";
import { stagesAfter, stagesOf } from "./stages.ts";
import type { TrainSettings } from "./train-settings.ts";

export const evenRanks = (ranks: number): RankFacts => ({
  node: Array.from({ length: ranks }, (_, rank) => rank),
  speed: new Array<number>(ranks).fill(1),
});

/** Throws AppError `BadOption` where the settings do not allow so many ranks. */
export function rankedModel(settings: TrainSettings, model: TrainedModel, facts: RankFacts): RankedModel {
  const { sequences, sequenceLength, microBatches, recipes, optimizer, optimizerMemory, shadow } = settings;
  const { program, layout, frozenFloats } = model;
  const ranked = { optimizer, optimizerMemory, recipes, program, layout, frozenFloats, sequences, sequenceLength, microBatches, shadow };
  const ranks = facts.node.length;
  return { ...ranked, facts, fssdp: fssdpOf(settings.fssdp ?? {}, { ...ranked, ranks, wholeStep: having(recipes, "loss").length > 0 }) };
}

export type LeastRanks = (step: number) => number | undefined;

/** The least ranks whose memory suffices, each on a machine like this one; undefined where no number does. */
export async function leastRanks(settings: TrainSettings, memory?: number): Promise<LeastRanks> {
  const source = await openSource(settings.model);
  const stages = stagesOf(settings);
  const found = stages.map(({ number }) => leastOf(settings, trainedModel(source, settings, number), memory));
  return (step) => found[stagesAfter(stages, step)[0]?.number ?? 0];
}

/** A binary search, since more ranks own less each. One rank counts only where two fit. */
export function leastOf(settings: TrainSettings, model: TrainedModel, memory?: number): number | undefined {
  const enough = (ranks: number): boolean => fitsRanks(rankedModel(settings, model, evenRanks(ranks)), memory);
  let [below, most] = [0, Math.min(settings.microBatches, settings.fssdp?.microBatchesAtOnce ?? settings.microBatches)];
  if (!enough(most)) return undefined;
  while (most - below > 1) {
    const middle = Math.floor((below + most) / 2);
    if (enough(middle)) most = middle;
    else below = middle;
  }
  return most;
}
