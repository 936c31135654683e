// The settings of a run, with their bounds, and which of them its bits depend on. Errors name the option. Pure.
import { AppError } from "../../../crds/common.ts";
import type { CodecName } from "../../../crds/names.ts";
import type { Identity } from "../model/training-checkpoint.ts";
import { checkOptimizer, optimizerIdentity } from "../optimizers/index.ts";
import { type AskedOptimizer, arithmeticOf } from "../optimizers/open.ts";
import { checkOptimizerMemory } from "../optimizers/residency.ts";
import type { Schedule } from "../optimizers/schedule.ts";
import type { Fssdp } from "../ranks/step-plan.ts";
import { checkRecipes, recipeTexts } from "../recipes/index.ts";
import type { RecipeSetting } from "../recipes/recipe.ts";

/** Where weights come from: those of the model, or the seed. */
export const inits = ["checkpoint", "random"] as const;
type Init = (typeof inits)[number];

export interface TrainSettings extends AskedOptimizer {
  /** Folder that has the model, or config.json and tokenizer where `init` is random. */
  readonly model: string;
  readonly init: Init;
  /** The codec of a store's experts that weights are taken from; unset: the most exact one, if there is one of more than four bits. */
  readonly initCodec?: CodecName | undefined;
  readonly seed: number;
  /** Folders that `enodia data import` wrote. */
  readonly data: string;
  readonly validation: string | undefined;
  /** Folder of checkpoints, metrics and the result. */
  readonly out: string;
  /** Another folder for the result, which worlds that meet have in common; unset: the same. */
  readonly result?: string | undefined;
  /** Sequences of a step, and of how many tokens. */
  readonly sequences: number;
  readonly sequenceLength: number;
  /** Equal shares of a batch, in whose order gradients are added. */
  readonly microBatches: number;
  readonly schedule: Schedule;
  /** What changes training beside the optimizer; unset: nothing does. */
  readonly recipes?: readonly RecipeSetting[] | undefined;
  /** Ranks that may come for a later stage; unset: none but those there are. */
  readonly ranksMax?: number | undefined;
  /** The norm that gradients are cut to. */
  readonly clip: number;
  /** Whether ranks keep the state of one another, so that a lost one costs the step in flight; unset: they do not. */
  readonly shadow?: boolean | undefined;
  readonly checkpoint: { readonly everySteps: number; readonly keep: number };
  readonly codecs: readonly CodecName[];
  readonly threads: number;
  /** How experts are spread over ranks, which changes no bits; what is left out is chosen (ranks/fssdp.ts). */
  readonly fssdp?: Partial<Fssdp> | undefined;
}

const sequencesMax = 65_536;
const microBatchesMax = 1024;
const stepsMax = 99_999_999; // a checkpoint's folder has eight digits

function refuse(option: string, value: number, must: string): never {
  throw new AppError(`--${option} is ${value}; it must be ${must}`, { code: "BadOption", operation: "reading the settings of a run" });
}

function whole(option: string, value: number, min: number, max: number): void {
  if (!Number.isInteger(value) || value < min || value > max) refuse(option, value, `a whole number from ${min} to ${max}`);
}

/** `maxContext`: positions that the model knows. */
export function checkSettings(settings: TrainSettings, maxContext: number): void {
  const { sequences, microBatches, sequenceLength, schedule, optimizer, optimizerMemory, clip, checkpoint, seed, threads } = settings;
  whole("steps", schedule.steps, 1, stepsMax);
  whole("warmup", schedule.warmup, 0, schedule.steps);
  whole("micro-batches", microBatches, 1, microBatchesMax);
  if (2 ** Math.round(Math.log2(microBatches)) !== microBatches) refuse("micro-batches", microBatches, "a power of two");
  whole("sequences", sequences, 1, sequencesMax);
  if (sequences % microBatches !== 0) refuse("sequences", sequences, `a multiple of --micro-batches (${microBatches})`);
  whole("sequence-length", sequenceLength, 2, maxContext);
  whole("seed", seed, 0, 2 ** 31 - 1);
  whole("threads", threads, 1, 512);
  whole("checkpoint-every", checkpoint.everySteps, 1, stepsMax);
  whole("keep", checkpoint.keep, 1, 1000);
  if (!(schedule.rate > 0 && schedule.rate <= 1)) refuse("learning-rate", schedule.rate, "above 0 and at most 1");
  if (!(schedule.floor >= 0 && schedule.floor <= 1)) refuse("floor", schedule.floor, "from 0 to 1");
  checkOptimizer(optimizer);
  const stores = settings.shadow ? 2 : 1; // beside what a rank owns it keeps what it shadows
  if (optimizerMemory !== undefined) checkOptimizerMemory(arithmeticOf(settings).state.length, optimizerMemory.bytes, stores);
  const { recipes = [], shadow = false, init } = settings;
  checkRecipes(recipes, { steps: schedule.steps, init, everySteps: checkpoint.everySteps, shadow });
  if (!(clip > 0 && Number.isFinite(clip))) refuse("clip", clip, "above 0");
}

/** What a run depends on beside its settings. */
interface Surroundings {
  /** Digests of config.json and of the data's index. */
  readonly model: string;
  readonly data: string;
  /** The weights that it starts from; undefined where the settings say it. */
  readonly weights: string | undefined;
  /** The engine that computes, and the processor's instructions. */
  readonly numerics: string;
  /** Which of worlds that meet it is. */
  readonly world?: number | undefined;
}

/** What a checkpoint has to agree with for the run to go on from it. A constant rate does not ask how many steps there will be. */
export function identityOf(settings: TrainSettings, { model, data, weights, numerics, world }: Surroundings): Identity {
  const { init, seed, sequences, microBatches, sequenceLength, schedule, optimizer, clip, threads } = settings;
  const steps = schedule.name === "constant" ? {} : { steps: schedule.steps };
  return {
    ...steps,
    model,
    data,
    init,
    ...(weights !== undefined && { weights }),
    seed,
    sequences,
    "micro-batches": microBatches,
    "sequence-length": sequenceLength,
    schedule: schedule.name,
    "learning-rate": schedule.rate,
    warmup: schedule.warmup,
    floor: schedule.floor,
    ...optimizerIdentity(optimizer),
    clip,
    ...recipeTexts(settings.recipes),
    ...(world !== undefined && { world }),
    threads,
    numerics,
  };
}
