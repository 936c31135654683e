// All that can be known of a run before anything of it is computed: its data, the checkpoint that it goes on from, and whether its later
// stages and its result will do. A run asks it as it begins, and a check of a job before there are ranks. Shell.
import { createHash } from "node:crypto";
import { AppError } from "../../../crds/common.ts";
import { type Corpus, openCorpus } from "../data/corpus.ts";
import type { ModelSource } from "../model/model-source.ts";
import { checkResult } from "../model/result-files.ts";
import { newestCheckpoint } from "../model/training-checkpoint.ts";
import { checkRanks } from "../ranks/fits.ts";
import { trainedModel } from "../recipes/index.ts";
import type { Kept } from "../worlds/rounds.ts";
import { evenRanks, rankedModel } from "./needs.ts";
import { stagesOf } from "./stages.ts";
import type { TrainSettings } from "./train-settings.ts";

export const resultAt = ({ out, result = out }: TrainSettings): string => result;

export const digestOf = (value: unknown): string => createHash("sha256").update(JSON.stringify(value)).digest("hex");

/** The data of a run, and what it is looked at on. Throws AppError `BadData` where one of them is not for the model. */
export async function openData(settings: TrainSettings, source: ModelSource): Promise<readonly [Corpus, Corpus | undefined]> {
  const { program, tokenizerDigest } = source;
  const wanted = { vocab: program.vocab, tokenizerDigest, sequenceLength: settings.sequenceLength };
  const corpus = await openCorpus(settings.data, wanted);
  try {
    return [corpus, settings.validation === undefined ? undefined : await openCorpus(settings.validation, wanted)];
  } catch (caught) {
    await corpus.close();
    throw caught;
  }
}

/** The step of the checkpoint to go on from, as this rank sees it. A model of more steps than are asked for would be another one than the
 *  run's. */
export async function stepToGoOnFrom(checkpoints: string, steps: number): Promise<Kept | undefined> {
  const newest = await newestCheckpoint(checkpoints);
  if (newest === undefined || newest <= steps) return newest === undefined ? undefined : { step: newest, unmet: false };
  throw new AppError(
    `--steps is ${steps}, and the newest checkpoint in ${checkpoints} is of step ${newest}; give as many, or another --out`,
    {
      code: "BadOption",
      operation: "starting a run",
    },
  );
}

/** Ranks of a world, and the memory of each where it is not that of this machine. */
interface Room {
  readonly ranks: number;
  readonly memory?: number;
}

/** Throws AppError `DoesNotFit` where a later stage would fit on no ranks that there may be, and what the writing of the result would. */
export async function checkStages(settings: TrainSettings, source: ModelSource, { ranks, memory }: Room): Promise<void> {
  const stages = stagesOf(settings);
  const last = trainedModel(source, settings, stages.length - 1);
  await checkResult(last.result, resultAt(settings), settings.codecs);
  if (stages.length < 2) return;
  checkRanks(rankedModel(settings, last, evenRanks(Math.max(ranks, settings.ranksMax ?? 0))), memory);
}
