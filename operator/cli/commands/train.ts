// `enodia train`: runs runtime/train, loaded on demand, and shows its progress. Ctrl-C ends the run with a checkpoint.
import { availableParallelism } from "node:os";
import { AppError } from "../../../crds/common.ts";
import { codecNames, optimizerNames, scheduleNames } from "../../../crds/names.ts";
import type { RunEnd } from "../../../runtime/train/loop/run.ts";
import type { TrainPorts } from "../../../runtime/train/loop/train-ports.ts";
import { inits, type TrainSettings } from "../../../runtime/train/loop/train-settings.ts";
import { type OptimizerSettings, optimizerSettings, optimizerUsage } from "../../../runtime/train/optimizers/index.ts";
import { localSteps, parseRecipes, usageOf } from "../../../runtime/train/recipes/index.ts";
import { chromeTrace } from "../../../runtime/train/trace/chrome.ts";
import { Recorder } from "../../../runtime/train/trace/recorder.ts";
import { stepSpansMax } from "../../../runtime/train/trace/spans.ts";
import { rankTimes } from "../../../runtime/train/trace/summary.ts";
import { choice, declare, text, texts, type Values, value } from "../command.ts";
import { asksForJson, namesOf, number, outputOptions } from "../options.ts";
import { checkOutput, type OutputFile, writeOutput } from "../output-file.ts";
import { TrainProgress } from "../train-progress.ts";
import { perfettoOutput, traceText } from "./train-trace-text.ts";

const options = {
  ...outputOptions,
  model: text("--model <folder>", "a model store, a Hugging Face folder, or a folder with config.json and tokenizer (--init random)"),
  data: texts("--data <folder>", 'token data of "enodia data import"; again for each world of --local'),
  out: text("--out <folder>", "checkpoints/, metrics.jsonl, and at the end store/ and huggingface/"),
  steps: value("--steps <number>", "steps in all", number),
  init: choice("--init <name>", "checkpoint: the weights of --model; random: drawn from --seed", inits, "checkpoint"),
  initCodec: choice(
    "--init-codec <name>",
    "codec of a store's experts to start from (default: the most exact; one of four bits only if named)",
    codecNames,
  ),
  validation: text("--validation <folder>", "token data whose loss and perplexity are reported at each checkpoint"),
  sequences: value("--sequences <number>", "sequences of a step", number, 16),
  sequenceLength: value("--sequence-length <number>", "tokens of each", number, 256),
  microBatches: value("--micro-batches <number>", "equal micro-batches of a step, a power of two: memory is for one", number, 8),
  seed: value("--seed <number>", "of the order of sequences and of random weights", number, 1),
  learningRate: value("--learning-rate <x>", "the highest rate", number, 3e-4),
  warmup: value("--warmup <number>", "the steps of its rise", number, 0),
  schedule: choice("--schedule <name>", "how the rate falls", scheduleNames, "cosine"),
  floor: value("--floor <x>", "the part of the rate at the end", number, 0.1),
  optimizer: choice("--optimizer <name>", optimizerUsage, optimizerNames, "adamw"),
  weightDecay: value("--weight-decay <x>", "of the optimizer", number),
  beta1: value("--beta1 <x>", "of the optimizer", number),
  beta2: value("--beta2 <x>", "of the optimizer", number),
  epsilon: value("--epsilon <x>", "of the optimizer", number),
  optimizerMemory: value(
    "--optimizer-memory <bytes>",
    "its state in memory; the rest is a file in --out, with the same bits (default: all)",
    number,
  ),
  balance: text(
    "--balance <list>",
    `keeps experts equally busy: ${usageOf("balance")}; a loss has all micro-batches in memory (default: none)`,
    "",
  ),
  adapters: text(
    "--adapters <a>",
    `trains small matrices beside the model's, which stay: ${usageOf("adapters")}; they are merged into store/ and huggingface/, and lie in adapters/ as they are (default: the model's are trained)`,
    "",
  ),
  spawn: text(
    "--spawn <s>",
    `${usageOf("spawn")}: begins with one expert a layer; after that step the model's are born of it, that part masked (default: no)`,
    "",
  ),
  gate: text("--gate <g>", `the gate that it is trained by, and ends without: ${usageOf("gate")}`, ""),
  local: text(
    "--local <l>",
    `worlds, one for each --data, make steps alone and meet at a mean: ${usageOf("local")}; checkpoints and metrics of each lie in world-0/ and so on (default: one world)`,
    "",
  ),
  clip: value("--clip <x>", "norm that gradients are cut to", number, 1),
  checkpointEvery: value("--checkpoint-every <number>", "steps between checkpoints", number, 100),
  keep: value("--keep <number>", "how many checkpoints stay", number, 3),
  codec: value("--codec <list>", "codecs of the store that is written (default: f32)", namesOf(codecNames), ["f32"]),
  threads: value("--threads <number>", "of this machine, all by default; a run's bits depend on it", number, availableParallelism()),
  trace: text("--trace <file>", "where the time of the last steps went, for https://ui.perfetto.dev and as tables"),
};
type TrainRequest = Values<typeof options>;

export const command = declare({
  about: "Trains a model on this machine's CPU. Ctrl-C ends with a checkpoint; the same line goes on from the newest one, bit for bit.",
  options,
  notes: `example   enodia data import texts/ --model smol-moe --out tokens && enodia train --model smol-moe --data tokens --out run --steps 200`,
  action: run,
});

const refused = (message: string): AppError => new AppError(message, { code: "BadOption", operation: "reading the command line" });

const missing = (name: string, what: string): AppError => refused(`--${name} is missing: ${what}; --help tells more`);

/** Folders of token data, one per world. */
function dataOf({ data, local }: TrainRequest): readonly [string, ...string[]] {
  const [first, ...others] = data;
  if (first === undefined || data.includes("")) throw missing("data", 'a folder that "enodia data import" wrote');
  if (others.length > 0 && localSteps(parseRecipes({ local })) === undefined)
    throw refused(`--data is given ${data.length} times; --local says how their worlds meet: ${usageOf("local")}`);
  return [first, ...others];
}

function required<T>(present: T | undefined, name: string, what: string): T {
  if (present !== undefined && present !== "") return present;
  throw missing(name, what);
}

/** Unset numbers are the optimizer's defaults; runtime/train/loop/train-settings.ts checks bounds. */
function optimizer({ optimizer: name, weightDecay, beta1, beta2, epsilon }: TrainRequest): OptimizerSettings {
  const numbers = Object.entries({ "weight-decay": weightDecay, beta1, beta2, epsilon }).flatMap(([option, number]) =>
    number === undefined ? [] : [[option, number] as const],
  );
  return optimizerSettings(name, Object.fromEntries(numbers));
}

function settingsOf(request: TrainRequest): TrainSettings {
  const steps = required(request.steps, "steps", "how many steps to make in all");
  const model = required(request.model, "model", "the folder of the model");
  const [data] = dataOf(request);
  const out = required(request.out, "out", "the folder of checkpoints and result");
  const { optimizerMemory, learningRate, schedule, checkpointEvery, keep, codec, ...same } = request;
  return {
    model,
    data,
    out,
    init: same.init,
    initCodec: same.initCodec,
    validation: same.validation,
    seed: same.seed,
    sequences: same.sequences,
    sequenceLength: same.sequenceLength,
    microBatches: same.microBatches,
    schedule: { name: schedule, rate: learningRate, warmup: same.warmup, steps, floor: same.floor },
    optimizer: optimizer(request),
    optimizerMemory: optimizerMemory === undefined ? undefined : { bytes: optimizerMemory, folder: out },
    recipes: parseRecipes(same),
    clip: same.clip,
    checkpoint: { everySteps: checkpointEvery, keep },
    codecs: codecNames.filter((name) => codec.includes(name)),
    threads: same.threads,
  };
}

async function trained(settings: TrainSettings, data: readonly string[], portsOf: (world: number) => TrainPorts): Promise<RunEnd> {
  if (localSteps(settings.recipes) !== undefined) {
    const { trainWorlds } = await import("../../../runtime/train/worlds/together.ts");
    return trainWorlds(settings, data, portsOf);
  }
  const { train } = await import("../../../runtime/train/loop/run.ts");
  return train(settings, portsOf(0));
}

/** One clock for all worlds; returns the tables. */
async function writeTrace(file: OutputFile, recorders: readonly Recorder[]): Promise<string> {
  const ranks = recorders.map((recorder, world) => ({ name: recorders.length > 1 ? `world ${world}` : "rank 0", spans: recorder.take() }));
  await writeOutput(file, chromeTrace(ranks));
  return traceText(ranks.map(({ name, spans }) => ({ name, times: rankTimes(spans) })));
}

async function run(values: TrainRequest): Promise<number> {
  const json = asksForJson(values);
  const settings = settingsOf(values);
  const data = dataOf(values);
  const { steps } = settings.schedule;
  const now = (): number => performance.now();
  const trace = values.trace === undefined ? undefined : perfettoOutput(values.trace, "--trace");
  if (trace !== undefined) await checkOutput(trace);
  const recorders = data.map(() => new Recorder(now, Math.floor(stepSpansMax / data.length)));
  const progress = new TrainProgress(
    { isTTY: process.stderr.isTTY === true, write: (text) => void process.stderr.write(text) },
    steps,
    now,
  );
  let stopped = false;
  const stop = (): void => {
    if (stopped) process.exit(130); // at the second Ctrl-C the previous checkpoint stays the last
    stopped = true;
    progress.say("ending with a checkpoint; Ctrl-C again ends at once");
  };
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, stop);
  try {
    // The bar shows the first world.
    const portsOf = (world: number): TrainPorts => ({
      now,
      stopped: () => stopped,
      recorder: trace && recorders[world],
      onStart({ device, parameters, samples, weights, step }) {
        const from = step === 0 ? weights : `going on after step ${step}`;
        const who = data.length > 1 ? `world ${world}: ` : "";
        progress.say(`${who}${(parameters / 1e6).toFixed(1)} million parameters, ${samples} sequences, ${device}, ${from}`);
      },
      onStep(report) {
        if (world === 0) progress.step(report);
      },
      onValidation({ step, loss }) {
        if (world === 0) progress.say(`step ${step}: validation loss ${loss.toFixed(4)}, perplexity ${Math.exp(loss).toFixed(2)}`);
      },
    });
    const end = await trained(settings, data, portsOf);
    const traced = trace === undefined ? undefined : await writeTrace(trace, recorders);
    const done =
      end.store === undefined
        ? `stopped after step ${end.step}; the same line goes on from there`
        : `${end.step} steps done\nmodel store    ${end.store}\nHugging Face   ${end.folder}${
            end.adapters === undefined ? "" : `\nadapters       ${end.adapters}`
          }\nlook at it: enodia model inspect ${end.store}`;
    process.stdout.write(`${json ? JSON.stringify(end) : [done, ...(traced === undefined ? [] : ["", traced])].join("\n")}\n`);
    return end.store === undefined ? 130 : 0;
  } finally {
    for (const signal of ["SIGINT", "SIGTERM"] as const) process.off(signal, stop);
  }
}
