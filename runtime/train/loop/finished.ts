// The mark of a finished result, written into its folder last. Who finds it trains no more, whatever became of the job's status and of
// the checkpoints.
import { rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { AppError } from "../../../crds/common.ts";
import { statIfThere } from "../../weights/file.ts";
import { readJson } from "../../weights/store-reader.ts";
import { openStart } from "../model/initial-weights.ts";
import type { ModelSource } from "../model/model-source.ts";
import { resultFolders } from "../model/result-files.ts";
import { checkIdentity, type Identity, identitySchema } from "../model/training-checkpoint.ts";
import { digestOf, openData, resultAt } from "./before.ts";
import { identityOf, type TrainSettings } from "./train-settings.ts";

const finishedSchema = z.object({ version: z.literal(1), step: z.number().int().min(1), identity: identitySchema });
const markOf = (settings: TrainSettings): string => join(resultAt(settings), "finished.json");

const codecsOf = ({ codecs }: TrainSettings): Identity => ({ codec: codecs.join(",") });

/** Before the result is written anew. */
export const unmarkFinished = (settings: TrainSettings): Promise<void> => rm(markOf(settings), { force: true });

export async function markFinished(settings: TrainSettings, { numerics: _made, ...identity }: Identity): Promise<void> {
  const path = markOf(settings);
  const mark = { version: 1, step: settings.schedule.steps, identity: { ...identity, ...codecsOf(settings) } };
  await writeFile(`${path}.tmp`, `${JSON.stringify(mark)}\n`, { flush: true });
  await rename(`${path}.tmp`, path);
}

interface Look {
  /** Its number among worlds that meet, of which the first has written the result. */
  readonly world?: number | undefined;
  /** False: weights of a folder are not compared, which reads all of them. */
  readonly weights?: boolean;
}

/**
 * Whether the folder has the whole result of this run.
 * Throws AppError `BadCheckpoint` for the result of another run, or of more steps.
 */
export async function isFinished(settings: TrainSettings, source: ModelSource, look: Look): Promise<boolean> {
  const path = markOf(settings);
  const { store, folder } = resultFolders(resultAt(settings));
  for (const each of [path, store, folder]) if ((await statIfThere(each)) === undefined) return false;
  const { data: mark, error } = finishedSchema.safeParse(await readJson(path, "BadCheckpoint"));
  if (mark === undefined) throw bad(path, `${error.issues[0]?.message}; remove it to write the result again`);
  const { data, world: _number, ...own } = await identityHere(settings, source, look);
  checkIdentity(path, mark.identity, (look.world ?? 0) === 0 ? { ...own, data: data ?? "" } : own);
  const { steps } = settings.schedule;
  if (mark.step > steps) throw bad(path, `is of step ${mark.step}, and --steps is ${steps}; give as many, or another --out`);
  return mark.step === steps;
}

async function identityHere(settings: TrainSettings, source: ModelSource, { world, weights = true }: Look): Promise<Identity> {
  const [corpus, validation] = await openData(settings, source);
  const start = await openStart(source, settings, weights);
  try {
    const digests = { model: digestOf(source.config), data: digestOf(corpus.index), weights: start.weights };
    const { numerics: _any, ...identity } = identityOf(settings, { ...digests, numerics: "", world });
    return { ...identity, ...codecsOf(settings) };
  } finally {
    for (const part of [corpus, validation, start]) await part?.close();
  }
}

const bad = (path: string, what: string): AppError =>
  new AppError(`${path}: ${what}`, { code: "BadCheckpoint", operation: "looking for a finished result" });
