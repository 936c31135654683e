// Translates a run's errors for a job's owner: from options and paths to spec fields and URIs.
import { paths } from "../../../crds/common.ts";

export const fieldOf: Readonly<Record<string, string>> = {
  model: "spec.model.uri",
  init: "spec.model.init",
  "init-codec": "spec.model.initCodec",
  data: "spec.data.uri",
  validation: "spec.data.validation",
  local: "spec.local.recipe",
  "sequence-length": "spec.data.sequenceLength",
  steps: "spec.steps",
  sequences: "spec.batch.sequences",
  "micro-batches": "spec.batch.microBatches",
  seed: "spec.seed",
  optimizer: "spec.optimizer.name",
  "optimizer-memory": "spec.optimizer.memory",
  "learning-rate": "spec.optimizer.learningRate",
  "weight-decay": "spec.optimizer.weightDecay",
  beta1: "spec.optimizer.beta1",
  beta2: "spec.optimizer.beta2",
  epsilon: "spec.optimizer.epsilon",
  clip: "spec.optimizer.clip",
  schedule: "spec.schedule.name",
  warmup: "spec.schedule.warmupSteps",
  floor: "spec.schedule.floor",
  balance: "spec.balance",
  adapters: "spec.adapters",
  spawn: "spec.spawn",
  gate: "spec.gate",
  "checkpoint-every": "spec.checkpoint.everySteps",
  keep: "spec.checkpoint.keep",
  codec: "spec.output.codecs",
  out: "spec.output.uri",
  threads: "spec.threadsPerRank",
  overwrite: "a job",
};

/** Options of another command, in a remedy that names it, stay. */
const option = /(?<!again with "?)--([a-z][a-z0-9-]*)/g;
const fssdp = /(?<![\w.])fssdp\./g;
/** A checkpoint names its settings by option. */
const madeWith = /(?<=was made with )([a-z][a-z0-9-]*)/g;
const memory = /\bgive more memory\b/g;
const claim = new RegExp(`(?<![\\w/])${paths.claims}/`, "g");

export function jobMessage(message: string): string {
  const word = (whole: string, name: string): string => fieldOf[name] ?? whole;
  return message
    .replace(option, word)
    .replace(madeWith, word)
    .replace(fssdp, "spec.fssdp.")
    .replace(memory, "give more spec.memoryPerRank")
    .replace(claim, "pvc://");
}
