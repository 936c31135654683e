// The memory that a run asks of its ranks, for any number of them: as it begins, and before a world of fewer ranks is decided. Shell.

import { openSource } from "../model/model-source.ts";
import type { TrainedModel } from "../model/trained-model.ts";
import { fitsRanks, type RankedModel } from "../ranks/fits.ts";
import { fssdpOf } from "../ranks/fssdp.ts";
import type { RankFacts } from "../ranks/step-plan.ts";
import { having, trainedModel } from "../recipes/index.ts";
import { stagesAfter, stagesOf } from "./stages.ts";
import type { TrainSettings } from "./train-settings.ts";

/** Ranks of one speed, each on a node of its own. */
export const evenRanks = (ranks: number): RankFacts => ({
  node: Array.from({ length: ranks }, (_, rank) => rank),
  speed: new Array<number>(ranks).fill(1),
});

/** Throws AppError `BadOption` where the settings are not for so many ranks. */
export function rankedModel(settings: TrainSettings, model: TrainedModel, facts: RankFacts): RankedModel {
  const { sequences, sequenceLength, microBatches, recipes, optimizer, optimizerMemory, shadow } = settings;
  const { program, layout, frozenFloats } = model;
  const ranked = { optimizer, optimizerMemory, recipes, program, layout, frozenFloats, sequences, sequenceLength, microBatches, shadow };
  const ranks = facts.node.length;
  return { ...ranked, facts, fssdp: fssdpOf(settings.fssdp ?? {}, { ...ranked, ranks, wholeStep: having(recipes, "loss").length > 0 }) };
}

/** By the last step that is made, since later stages may need more. */
export type LeastRanks = (step: number) => number | undefined;

/** The least ranks whose memory is enough, each on a machine of its own that has as much as this one; undefined where no number is. */
export async function leastRanks(settings: TrainSettings, memory?: number): Promise<LeastRanks> {
  const source = await openSource(settings.model);
  const stages = stagesOf(settings);
  const found = stages.map(({ number }) => leastOf(settings, trainedModel(source, settings, number), memory));
  return (step) => found[stagesAfter(stages, step)[0]?.number ?? 0];
}

/** More ranks own less each, so that a number is sought by halves; one alone needs less for its micro-batches, and counts where two have enough. */
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
