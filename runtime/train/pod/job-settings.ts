// The settings of a run from a MoETrainingJob's spec.
import type { MoETrainingJobSpec } from "../../../crds/moe-training-job.ts";
import { parseQuantity } from "../../../crds/quantity.ts";
import { countOf, type FssdpSpec } from "../../../crds/training-fssdp.ts";
import { pathOf } from "../../../crds/training-process.ts";
import type { TrainSettings } from "../loop/train-settings.ts";
import { knownOptions, optimizerSettings } from "../optimizers/index.ts";
import type { RankContext } from "../ranks/rank-context.ts";
import { parseRecipes } from "../recipes/index.ts";
import { contextInWorld } from "../worlds/group.ts";
import { worldSettings } from "../worlds/together.ts";

const inits = { Checkpoint: "checkpoint", Random: "random" } as const;

export function trainSettings(spec: MoETrainingJobSpec): TrainSettings {
  const { model, data, batch, optimizer, schedule, output, spawn } = spec;
  const { beta1, beta2, epsilon, weightDecay } = optimizer;
  const numbers = { beta1: Number(beta1), beta2: Number(beta2), epsilon: Number(epsilon), "weight-decay": Number(weightDecay) };
  return {
    model: pathOf(model.uri),
    init: inits[model.init],
    initCodec: model.initCodec,
    seed: spec.seed,
    data: pathOf(data.uri),
    validation: data.validation === undefined ? undefined : pathOf(data.validation),
    out: pathOf(output.uri),
    sequences: batch.sequences,
    sequenceLength: data.sequenceLength,
    microBatches: batch.microBatches,
    schedule: {
      name: schedule.name,
      rate: Number(optimizer.learningRate),
      warmup: schedule.warmupSteps,
      steps: spec.steps,
      floor: Number(schedule.floor),
    },
    optimizer: optimizerSettings(optimizer.name, knownOptions(optimizer.name, numbers)),
    optimizerMemory:
      optimizer.memory === undefined
        ? undefined
        : { bytes: parseQuantity(optimizer.memory, "spec.optimizer.memory"), folder: pathOf(output.uri) },
    recipes: parseRecipes({
      balance: spec.balance,
      adapters: spec.adapters,
      gate: spec.gate,
      local: spec.local.recipe,
      ...(spawn && { spawn: `${spawn.step}:${spawn.mask}` }),
    }),
    // More ranks than micro-batches at once never come.
    ranksMax: countOf(spec.fssdp.microBatchesAtOnce) ?? batch.microBatches,
    clip: Number(optimizer.clip),
    shadow: spec.failurePolicy.shadow && spec.local.data.length === 0, // Worlds that meet continue from checkpoints.
    checkpoint: spec.checkpoint,
    codecs: output.codecs,
    threads: spec.threadsPerRank,
    fssdp: fssdpOf(spec.fssdp),
  };
}

export function worldsOf(spec: MoETrainingJobSpec): readonly TrainSettings[] {
  const settings = trainSettings(spec);
  const data = [spec.data.uri, ...spec.local.data].map(pathOf);
  return data.length === 1 ? [settings] : data.map((own, world) => worldSettings(settings, world, own));
}

export function placedIn(spec: MoETrainingJobSpec, context: RankContext): readonly [TrainSettings, RankContext] {
  const worlds = worldsOf(spec);
  const own = worlds.length === 1 ? context : contextInWorld(context, worlds.length);
  return [worlds[own.group?.world ?? 0] as TrainSettings, own];
}

/** The run chooses what is Auto. */
function fssdpOf({ planner, memorySlots, overlapDegree, microBatchesAtOnce, ...given }: FssdpSpec): NonNullable<TrainSettings["fssdp"]> {
  const [slots, overlap, atOnce] = [countOf(memorySlots), countOf(overlapDegree), countOf(microBatchesAtOnce)];
  return {
    ...given,
    ...(planner !== "auto" && { planner }),
    ...(slots !== undefined && { memorySlots: slots }),
    ...(overlap !== undefined && { overlapDegree: overlap }),
    ...(atOnce !== undefined && { microBatchesAtOnce: atOnce }),
  };
}
