// The settings of a run from the spec of a MoETrainingJob. Pure.
import type { MoETrainingJobSpec } from "../../crds/moe-training-job.ts";
import { parseQuantity } from "../../crds/quantity.ts";
import { countOf, type FssdpSpec } from "../../crds/training-fssdp.ts";
import { pathOf } from "../../crds/training-process.ts";
import { parseAdapters } from "../train/adapters/index.ts";
import { knownOptions, optimizerSettings } from "../train/optimizers/index.ts";
import { parseBalance } from "../train/recipes/index.ts";
import type { TrainSettings } from "../train/settings.ts";

const inits = { Checkpoint: "checkpoint", Random: "random" } as const;

export function trainSettings(spec: MoETrainingJobSpec): TrainSettings {
  const { model, data, batch, optimizer, schedule, output } = spec;
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
    lanes: batch.lanes,
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
    balance: parseBalance(spec.balance),
    adapters: parseAdapters(spec.adapters),
    clip: Number(optimizer.clip),
    shadow: spec.failurePolicy.shadow,
    checkpoint: spec.checkpoint,
    codecs: output.codecs,
    threads: spec.threadsPerRank,
    fssdp: fssdpOf(spec.fssdp),
  };
}

/** What is Auto is left out, and found by the run. */
function fssdpOf({ planner, memorySlots, overlapDegree, lanesAtOnce, ...given }: FssdpSpec): NonNullable<TrainSettings["fssdp"]> {
  const [slots, overlap, atOnce] = [countOf(memorySlots), countOf(overlapDegree), countOf(lanesAtOnce)];
  return {
    ...given,
    ...(planner !== "auto" && { planner }),
    ...(slots !== undefined && { memorySlots: slots }),
    ...(overlap !== undefined && { overlapDegree: overlap }),
    ...(atOnce !== undefined && { lanesAtOnce: atOnce }),
  };
}
