// `enodia train`: parses the line, runs runtime/train, which is loaded only then, and shows its progress. Ctrl-C ends the run with a
// checkpoint; the same line goes on from it.
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import { AppError } from "../../../crds/common.ts";
import { type CodecName, codecNames, optimizerNames, scheduleNames } from "../../../crds/names.ts";
import { stepSpansMax } from "../../../crds/training-trace.ts";
import type { RunEnd } from "../../../runtime/train/loop/run.ts";
import type { TrainPorts } from "../../../runtime/train/loop/train-ports.ts";
import { inits, type TrainSettings } from "../../../runtime/train/loop/train-settings.ts";
import { type OptimizerSettings, optimizerSettings, optimizerUsage } from "../../../runtime/train/optimizers/index.ts";
import { localSteps, parseRecipes, usageOf } from "../../../runtime/train/recipes/index.ts";
import { chromeTrace } from "../../../runtime/train/trace/chrome.ts";
import { Recorder } from "../../../runtime/train/trace/recorder.ts";
import { rankTimes } from "../../../runtime/train/trace/summary.ts";
import type { CommandModule, Commands } from "../command.ts";
import { checkOutput, type OutputFile, writeOutput } from "../output-file.ts";
import { asksForJson, outputFlag } from "../output-flag.ts";
import { TrainProgress } from "../train-progress.ts";
import { options as jobOptions, verbs as jobVerbs, run as runOnJob } from "./train-job.ts";
import { perfettoOutput, traceText } from "./train-trace-text.ts";

const help = `usage: enodia train --model DIR --data DIR --out DIR --steps N [options]
       enodia train status|loss|trace|serve   of MoETrainingJobs in a cluster; --help after it tells more

Trains a model on this machine's CPU. Ctrl-C ends with a checkpoint; the same line goes on from the newest one, bit for bit.

          --model DIR    a model store, a Hugging Face folder, or a folder with config.json and tokenizer (--init random)
          --data DIR     token data of "enodia data import"; again for each world of --local
          --out DIR      checkpoints/, metrics.jsonl, and at the end store/ and huggingface/
          --steps N      steps in all
          --init NAME    checkpoint: the weights of --model; random: drawn from --seed (default: checkpoint)
          --init-codec NAME   codec of a store's experts to start from (default: the most exact; one of four bits only if named)
          --validation DIR   token data whose loss and perplexity are told at each checkpoint
          --sequences N  sequences of a step (default: 16)
          --sequence-length N   tokens of each (default: 256)
          --lanes N      equal shares of a step, a power of two: memory is for one (default: 8)
          --seed N       of the order of sequences and of random weights (default: 1)
          --learning-rate X, --warmup N   the highest rate, and the steps of its rise (default: 3e-4, 0)
          --schedule NAME, --floor X   ${scheduleNames.join(" or ")}, and the share of the rate at the end (default: cosine, 0.1)
          --optimizer NAME   ${optimizerUsage}
                         (default: adamw)
          --optimizer-memory N   bytes of its state in memory; the rest is a file in --out, with the same bits (default: all)
          --balance LIST keeps experts equally busy: ${usageOf("balance")}; a loss has all lanes in memory (default: none)
          --adapters A   trains small matrices beside the model's, which stay: ${usageOf("adapters")}; they are merged
                         into store/ and huggingface/, and lie in adapters/ as they are (default: the model's are trained)
          --spawn ${usageOf("spawn")}   begins with one expert a layer; after that step the model's are born of it, that part masked (default: no)
          --gate G       the gate that it is trained by, and ends without: ${usageOf("gate")}
          --local L      worlds, one for each --data, make steps alone and meet at a mean: ${usageOf("local")};
                         checkpoints and metrics of each lie in world-0/ and so on (default: one world)
          --clip X       norm that gradients are cut to (default: 1)
          --checkpoint-every N, --keep N   steps between checkpoints, and how many stay (default: 100, 3)
          --codec LIST   codecs of the store that is written (default: f32)
          --threads N    of this machine; a run's bits depend on it (default: all)
          --trace FILE   where the time of the last steps went, for https://ui.perfetto.dev and as tables
      -o, --output json  one JSON object on standard output; progress is on standard error

example   enodia data import texts/ --model smol-moe --out tokens && enodia train --model smol-moe --data tokens --out run --steps 200`;

const trainOptions = {
  model: { type: "string" },
  data: { type: "string", multiple: true },
  out: { type: "string" },
  steps: { type: "string" },
  init: { type: "string", default: "checkpoint" },
  "init-codec": { type: "string" },
  validation: { type: "string" },
  sequences: { type: "string", default: "16" },
  "sequence-length": { type: "string", default: "256" },
  lanes: { type: "string", default: "8" },
  seed: { type: "string", default: "1" },
  "learning-rate": { type: "string", default: "3e-4" },
  warmup: { type: "string", default: "0" },
  schedule: { type: "string", default: "cosine" },
  floor: { type: "string", default: "0.1" },
  optimizer: { type: "string", default: "adamw" },
  "weight-decay": { type: "string" },
  beta1: { type: "string" },
  beta2: { type: "string" },
  epsilon: { type: "string" },
  "optimizer-memory": { type: "string" },
  balance: { type: "string", default: "" },
  adapters: { type: "string", default: "" },
  spawn: { type: "string", default: "" },
  gate: { type: "string", default: "" },
  local: { type: "string", default: "" },
  clip: { type: "string", default: "1" },
  "checkpoint-every": { type: "string", default: "100" },
  keep: { type: "string", default: "3" },
  codec: { type: "string", default: "f32" },
  threads: { type: "string", default: `${availableParallelism()}` },
  trace: { type: "string" },
  ...outputFlag,
  help: { type: "boolean", short: "h", default: false },
} as const;

export { trainOptions as options };
/** Verbs on jobs of a cluster have options of their own. */
export const subcommands: Commands = Object.fromEntries(
  Object.keys(jobVerbs).map((verb) => [
    verb,
    { summary: "of training jobs", names: { moeTrainingJobs: "" }, load: async () => onJob(verb) },
  ]),
);
const onJob = (verb: string): CommandModule => ({ options: jobOptions, run: (args) => runOnJob(verb, args) });

const parse = (args: readonly string[]) => parseArgs({ args: [...args], options: trainOptions }).values;
type Values = ReturnType<typeof parse>;
/** Options that have a value. */
type Text = Exclude<keyof typeof trainOptions, "data" | "json" | "output" | "help">;

const refused = (message: string): AppError => new AppError(message, { code: "BadOption", operation: "reading the command line" });

const missing = (name: string, what: string): AppError => refused(`--${name} is missing: ${what}; --help tells more`);

/** Folders of token data, one for each world. */
function dataOf({ data = [], local }: Values): readonly [string, ...string[]] {
  const [first, ...others] = data;
  if (first === undefined || data.includes("")) throw missing("data", 'a folder that "enodia data import" wrote');
  if (others.length > 0 && localSteps(parseRecipes({ local })) === undefined)
    throw refused(`--data is given ${data.length} times; --local says how their worlds meet: ${usageOf("local")}`);
  return [first, ...others];
}

function required(values: Values, name: Text, what: string): string {
  const value = values[name];
  if (typeof value === "string" && value !== "") return value;
  throw missing(name, what);
}

/** Bounds are checked with the settings (runtime/train/loop/train-settings.ts). */
function number(values: Values, name: Text): number {
  const text = `${values[name] ?? ""}`;
  const value = Number(text);
  if (text.trim() !== "" && Number.isFinite(value)) return value;
  throw refused(`--${name} is "${text}"; it must be a number`);
}

function oneOf<Name extends string>(values: Values, name: Text, known: readonly Name[]): Name {
  const found = known.find((each) => each === values[name]);
  if (found !== undefined) return found;
  throw refused(`--${name} is "${values[name]}"; it must be ${known.join(" or ")}`);
}

/** Numbers that are not given are the optimizer's own. */
function optimizer(values: Values): OptimizerSettings {
  const numbers = (["weight-decay", "beta1", "beta2", "epsilon"] as const).flatMap((option) =>
    values[option] === undefined ? [] : [[option, number(values, option)] as const],
  );
  return optimizerSettings(oneOf(values, "optimizer", optimizerNames), Object.fromEntries(numbers));
}

function codecs(text: string): readonly CodecName[] {
  const asked = text.split(",").map((name) => name.trim());
  const unknown = asked.find((name) => !codecNames.some((known) => known === name));
  if (unknown !== undefined) throw refused(`--codec has "${unknown}"; known are ${codecNames.join(", ")}`);
  return codecNames.filter((name) => asked.includes(name));
}

function settingsOf(values: Values): TrainSettings {
  required(values, "steps", "how many steps to make in all");
  const model = required(values, "model", "the folder of the model");
  const [data] = dataOf(values);
  const out = required(values, "out", "the folder of checkpoints and result");
  return {
    model,
    data,
    out,
    init: oneOf(values, "init", inits),
    initCodec: values["init-codec"] === undefined ? undefined : oneOf(values, "init-codec", codecNames),
    validation: values.validation,
    seed: number(values, "seed"),
    sequences: number(values, "sequences"),
    sequenceLength: number(values, "sequence-length"),
    lanes: number(values, "lanes"),
    schedule: {
      name: oneOf(values, "schedule", scheduleNames),
      rate: number(values, "learning-rate"),
      warmup: number(values, "warmup"),
      steps: number(values, "steps"),
      floor: number(values, "floor"),
    },
    optimizer: optimizer(values),
    optimizerMemory: values["optimizer-memory"] === undefined ? undefined : { bytes: number(values, "optimizer-memory"), folder: out },
    recipes: parseRecipes(values),
    clip: number(values, "clip"),
    checkpoint: { everySteps: number(values, "checkpoint-every"), keep: number(values, "keep") },
    codecs: codecs(values.codec),
    threads: number(values, "threads"),
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

/** The spans that were kept last, of all worlds by one clock; what is said of them. */
async function writeTrace(file: OutputFile, recorders: readonly Recorder[]): Promise<string> {
  const ranks = recorders.map((recorder, world) => ({ name: recorders.length > 1 ? `world ${world}` : "rank 0", spans: recorder.take() }));
  await writeOutput(file, chromeTrace(ranks));
  return traceText(ranks.map(({ name, spans }) => ({ name, times: rankTimes(spans) })));
}

export async function run(args: readonly string[]): Promise<number> {
  const [verb = "", ...rest] = args;
  if (Object.hasOwn(jobVerbs, verb)) return runOnJob(verb, rest);
  const values = parse(args);
  if (values.help) {
    process.stdout.write(`${help}\n`);
    return 0;
  }
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
    if (stopped) process.exit(130); // asked twice: the last checkpoint is the one before
    stopped = true;
    progress.say("ending with a checkpoint; Ctrl-C again ends at once");
  };
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, stop);
  try {
    // The bar is of the first world; others say where they begin.
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
    const told =
      end.store === undefined
        ? `stopped after step ${end.step}; the same line goes on from there`
        : `${end.step} steps done\nmodel store    ${end.store}\nHugging Face   ${end.folder}${
            end.adapters === undefined ? "" : `\nadapters       ${end.adapters}`
          }\nlook at it: enodia model inspect ${end.store}`;
    process.stdout.write(`${json ? JSON.stringify(end) : [told, ...(traced === undefined ? [] : ["", traced])].join("\n")}\n`);
    return end.store === undefined ? 130 : 0;
  } finally {
    for (const signal of ["SIGINT", "SIGTERM"] as const) process.off(signal, stop);
  }
}
