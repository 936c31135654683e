// The checks of a run before any computing: data, checkpoint, later stages and result. A run and a job check share them.
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

/** The training and validation data. Throws AppError `BadData` for data that does not suit the model. */
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

/** The step of the checkpoint to continue from on this rank. Throws AppError `BadOption` for one past `steps`. */
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

interface Available {
  readonly ranks: number;
  readonly memory?: number;
}

/** Throws AppError `DoesNotFit` for a later stage that fits on no possible ranks, and what writing the result would throw. */
export async function checkStages(settings: TrainSettings, source: ModelSource, { ranks, memory }: Available): Promise<void> {
  const stages = stagesOf(settings);
  const last = trainedModel(source, settings, stages.length - 1);
  await checkResult(last.result, resultAt(settings), settings.codecs);
  if (stages.length < 2) return;
  checkRanks(rankedModel(settings, last, evenRanks(Math.max(ranks, settings.ranksMax ?? 0))), memory);
}
