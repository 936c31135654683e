// A run of training on one rank: opens model, data and the last checkpoint, makes the steps that are left, and writes the result. To
// run it again is to go on: with the same settings each step has the same bits whether the run was stopped or not. Shell.
import { createHash } from "node:crypto";
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { AppError } from "../../crds/common.ts";
import { createTraining } from "../compute/open-training.ts";
import type { TrainingBackend, WeightViews } from "../compute/training.ts";
import { createAdamW } from "./adamw.ts";
import { Balancing } from "./balancing.ts";
import { newestCheckpoint, readCheckpoint, writeCheckpoint } from "./checkpoint.ts";
import { type Corpus, openCorpus } from "./corpus.ts";
import { checkMemory } from "./memory.ts";
import { Network } from "./network.ts";
import { checkResult, resultFolders, writeAdapters, writeTrainedFolder, writeTrainedStore } from "./result.ts";
import { checkSettings, identityOf, type TrainSettings } from "./settings.ts";
import { type ModelSource, openSource } from "./source.ts";
import { openStart, type Start } from "./start.ts";
import { type Machine, runStep, type StepReport, validationLoss } from "./step.ts";
import { type TrainedModel, trainedModel } from "./trained.ts";

export interface TrainPorts {
  /** Now, in milliseconds. */
  now(): number;
  /** True once the run is to stop; asked before each layer of each lane. */
  stopped(): boolean;
  onStart(start: RunStart): void;
  onStep(report: StepReport & { readonly seconds: number }): void;
  onValidation(report: { readonly step: number; readonly loss: number }): void;
}

interface RunStart {
  readonly device: string;
  readonly parameters: number;
  readonly samples: number;
  /** Where its weights are from, for people. */
  readonly weights: string;
  /** Steps that a checkpoint has already. */
  readonly step: number;
}

export interface RunEnd {
  /** Steps made in all. */
  readonly step: number;
  /** Where the model is, when all steps are done. */
  readonly store: string | undefined;
  readonly folder: string | undefined;
  /** Where adapters are as they were trained, when there are some. */
  readonly adapters?: string | undefined;
  readonly checkpoints: string;
  readonly validationLoss: number | undefined;
}

interface Run extends Machine {
  readonly model: TrainedModel;
  /** Parameters that stay as they are, by tensor. */
  readonly frozen: WeightViews;
  readonly backend: TrainingBackend;
  readonly identity: ReturnType<typeof identityOf>;
  readonly checkpoints: string;
  /** Where its weights are from, for people. */
  readonly weights: string;
  /** The last step that is done. */
  readonly step: number;
}

const digestOf = (value: unknown): string => createHash("sha256").update(JSON.stringify(value)).digest("hex");

async function openData(settings: TrainSettings, source: ModelSource): Promise<readonly [Corpus, Corpus | undefined]> {
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

/** The step of the checkpoint to go on from. A model of more steps than are asked for would be another one than the run's. */
async function stepToGoOnFrom(checkpoints: string, steps: number): Promise<number | undefined> {
  const newest = await newestCheckpoint(checkpoints);
  if (newest === undefined || newest <= steps) return newest;
  throw new AppError(
    `--steps is ${steps}, and the newest checkpoint in ${checkpoints} is of step ${newest}; give as many, or another --out`,
    {
      code: "BadOption",
      operation: "starting a run",
    },
  );
}

async function openRun(settings: TrainSettings): Promise<Run> {
  const source = await openSource(settings.model);
  checkSettings(settings, source.program.maxContext);
  const model = trainedModel(source, settings);
  await checkResult(model.result, settings.out, settings.codecs);
  checkMemory({ program: model.program, layout: model.layout, settings, frozenFloats: model.frozenFloats });
  const checkpoints = join(settings.out, "checkpoints");
  const newest = await stepToGoOnFrom(checkpoints, settings.schedule.steps);
  const start = await openStart(source, settings);
  try {
    return await openMachine(settings, { source, model, checkpoints, newest, start });
  } finally {
    await start.close();
  }
}

/** A run as far as it is known before anything is computed. */
interface Plan extends Pick<Run, "model" | "checkpoints"> {
  readonly source: ModelSource;
  readonly newest: number | undefined;
  readonly start: Start;
}

async function openMachine(settings: TrainSettings, { source, model, checkpoints, newest, start }: Plan): Promise<Run> {
  const { program, layout } = model;
  const [corpus, validation] = await openData(settings, source);
  let backend: TrainingBackend | undefined;
  try {
    backend = await createTraining({ threads: settings.threads });
    const optimizer = createAdamW(layout.floats);
    const { told, weights } = start;
    const digests = { model: digestOf(source.config), data: digestOf(corpus.index) };
    const identity = identityOf(settings, { ...digests, weights, numerics: backend.numerics });
    const frozen = await model.frozen(start);
    if (newest === undefined) await model.fill(start, optimizer.p);
    else await readCheckpoint(checkpoints, { step: newest, identity, layout, state: optimizer });
    const arrays = { parameters: optimizer.p, gradients: optimizer.g };
    const { sequenceLength } = settings;
    const network = await Network.open(backend, { program, layout, ...arrays, frozen, sequenceLength });
    const balancing = new Balancing(settings.balance ?? [], { program, layout, ...arrays });
    const machine: Machine = { settings, layout, corpus, validation, optimizer, network, balancing };
    return { ...machine, model, frozen, backend, identity, checkpoints, weights: told, step: newest ?? 0 };
  } catch (caught) {
    await corpus.close();
    await validation?.close();
    await backend?.close();
    throw caught;
  }
}

const metricsSchema = z.object({ step: z.number(), validationLoss: z.number().optional() });

/** A line of metrics; of a step beyond all others where there is none, as in a line that a killed run left half written. */
function parsed(line: string): z.infer<typeof metricsSchema> {
  try {
    return metricsSchema.parse(JSON.parse(line));
  } catch {
    return { step: Number.POSITIVE_INFINITY };
  }
}

/** One line a step, as JSON; those past the checkpoint that a run goes on from are made again. */
class Metrics {
  readonly #path: string;
  constructor(out: string) {
    this.#path = join(out, "metrics.jsonl");
  }

  /** Returns the loss on other data that is known of the step. */
  async cutAfter(step: number): Promise<number | undefined> {
    const text = await readFile(this.#path, "utf8").catch((cause: NodeJS.ErrnoException) => {
      if (cause.code === "ENOENT") return "";
      throw cause;
    });
    const kept = text.split("\n").filter((line) => parsed(line).step <= step);
    const unfinished = `${this.#path}.tmp`;
    await writeFile(unfinished, kept.map((line) => `${line}\n`).join(""), { flush: true });
    await rename(unfinished, this.#path);
    return kept.map(parsed).findLast((line) => line.step === step && line.validationLoss !== undefined)?.validationLoss;
  }

  async add(line: object): Promise<void> {
    await writeFile(this.#path, `${JSON.stringify(line)}\n`, { flag: "a" });
  }
}

async function save(run: Run, step: number): Promise<void> {
  const { checkpoints, identity, layout, optimizer, settings } = run;
  await writeCheckpoint(checkpoints, { step, identity, layout, state: optimizer }, settings.checkpoint.keep);
}

/** Takes the loss on other data where a step has one to take; a run that was stopped or killed in it takes it when it goes on. */
async function validate(run: Run, step: number, metrics: Metrics, ports: TrainPorts): Promise<number | undefined> {
  if (!savesAfter(run, step)) return undefined;
  const loss = await validationLoss(run, ports.stopped);
  if (loss === undefined) return undefined;
  await metrics.add({ step, validationLoss: loss, perplexity: Math.exp(loss) });
  ports.onValidation({ step, loss });
  return loss;
}

const savesAfter = ({ settings: { checkpoint, schedule } }: Run, step: number): boolean =>
  step > 0 && (step % checkpoint.everySteps === 0 || step === schedule.steps);

/** Makes steps until all are done or the run is to stop; returns the last. Every step is either in a checkpoint or made again. */
async function makeSteps(run: Run, metrics: Metrics, ports: TrainPorts): Promise<{ readonly step: number; readonly loss?: number }> {
  const { settings } = run;
  const { steps } = settings.schedule;
  let saved = run.step;
  let validation = (await metrics.cutAfter(run.step)) ?? (await validate(run, run.step, metrics, ports));
  for (let step = run.step + 1; step <= steps; step++) {
    const begin = ports.now();
    const report = await runStep(run, step, ports.stopped);
    if (report === undefined) {
      if (saved < step - 1 || saved === 0) await save(run, step - 1);
      return { step: step - 1 };
    }
    const seconds = (ports.now() - begin) / 1000;
    await metrics.add({ ...report, seconds });
    ports.onStep({ ...report, seconds });
    if (!savesAfter(run, step)) continue;
    await save(run, step);
    saved = step;
    validation = await validate(run, step, metrics, ports);
  }
  return { step: steps, ...(validation !== undefined && { loss: validation }) };
}

/** Throws AppError: BadOption, BadData, BadCheckpoint, OtherNumerics, DoesNotFit, UnsupportedOp, NonFiniteLoss. */
export async function train(settings: TrainSettings, ports: TrainPorts): Promise<RunEnd> {
  const run = await openRun(settings);
  const { backend, checkpoints, layout, optimizer, model, frozen, corpus, validation } = run;
  try {
    await mkdir(settings.out, { recursive: true });
    const metrics = new Metrics(settings.out);
    ports.onStart({ device: backend.device, parameters: layout.parameters, samples: corpus.samples, weights: run.weights, step: run.step });
    const { step, loss } = await makeSteps(run, metrics, ports);
    const unfinished = { step, checkpoints, validationLoss: loss, store: undefined, folder: undefined };
    if (step < settings.schedule.steps) return unfinished;
    const { store, folder } = resultFolders(settings.out);
    const trained = { model, values: { parameters: optimizer.p, frozen } };
    await writeTrainedStore(trained, store, settings.codecs);
    await writeTrainedFolder(trained, folder);
    return { ...unfinished, store, folder, adapters: await writeAdapters(trained, settings.out) };
  } finally {
    await corpus.close();
    await validation?.close();
    await backend.close();
  }
}
