// The settings of a run, their bounds, and which of them its bits depend on. Errors name the option.
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

export const inits = ["checkpoint", "random"] as const;
type Init = (typeof inits)[number];

export interface TrainSettings extends AskedOptimizer {
  /** The model's folder; only config.json and the tokenizer where `init` is random. */
  readonly model: string;
  readonly init: Init;
  /** The codec of the store's experts to start from; unset: the most exact one above four bits. */
  readonly initCodec?: CodecName | undefined;
  readonly seed: number;
  readonly data: string;
  readonly validation: string | undefined;
  readonly out: string;
  /** The shared result folder of worlds that meet; unset: `out`. */
  readonly result?: string | undefined;
  readonly sequences: number;
  readonly sequenceLength: number;
  /** Equal parts of a batch, in whose order gradients are added. */
  readonly microBatches: number;
  readonly schedule: Schedule;
  readonly recipes?: readonly RecipeSetting[] | undefined;
  /** The most ranks that may come for a later stage; unset: the present ones. */
  readonly ranksMax?: number | undefined;
  readonly clip: number;
  /** Ranks store each other's state, so that a lost rank costs only the current step. */
  readonly shadow?: boolean | undefined;
  readonly checkpoint: { readonly everySteps: number; readonly keep: number };
  readonly codecs: readonly CodecName[];
  readonly threads: number;
  /** The sharding of experts, which changes no bits; unset values are chosen (ranks/fssdp.ts). */
  readonly fssdp?: Partial<Fssdp> | undefined;
}

const sequencesMax = 65_536;
const microBatchesMax = 1024;
const stepsMax = 99_999_999; // The number in a checkpoint folder's name has eight digits.

function refuse(option: string, value: number, must: string): never {
  throw new AppError(`--${option} is ${value}; it must be ${must}`, { code: "BadOption", operation: "reading the settings of a run" });
}

function whole(option: string, value: number, min: number, max: number): void {
  if (!Number.isInteger(value) || value < min || value > max) refuse(option, value, `a whole number from ${min} to ${max}`);
}

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
  const stores = settings.shadow ? 2 : 1;
  if (optimizerMemory !== undefined) checkOptimizerMemory(arithmeticOf(settings).state.length, optimizerMemory.bytes, stores);
  const { recipes = [], shadow = false, init } = settings;
  checkRecipes(recipes, { steps: schedule.steps, init, everySteps: checkpoint.everySteps, shadow });
  if (!(clip > 0 && Number.isFinite(clip))) refuse("clip", clip, "above 0");
}

interface Surroundings {
  readonly model: string;
  readonly data: string;
  /** A hash of the initial weights; undefined where the settings determine them. */
  readonly weights: string | undefined;
  readonly numerics: string;
  readonly world?: number | undefined;
}

/** What a checkpoint must agree with. A constant learning rate does not depend on the number of steps. */
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
