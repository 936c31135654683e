// A run of training on one rank: opens model, data and the last checkpoint, makes the steps that are left, and writes the result. To
// run it again is to go on: with the same settings each step has the same bits whether the run was stopped or not. Shell.
import { createHash } from "node:crypto";
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { totalmem } from "node:os";
import { join } from "node:path";
import { z } from "zod";
import { AppError } from "../../crds/common.ts";
import { createTraining } from "../compute/open-training.ts";
import type { TrainingBackend } from "../compute/training.ts";
import { createAdamW, floatsMax } from "./adamw.ts";
import { Balancing } from "./balancing.ts";
import { newestCheckpoint, readCheckpoint, writeCheckpoint } from "./checkpoint.ts";
import { type Corpus, openCorpus } from "./corpus.ts";
import { kindsOf, type Layout, layoutOf } from "./layout.ts";
import { Network } from "./network.ts";
import { checkResult, resultFolders, writeTrainedFolder, writeTrainedStore } from "./result.ts";
import { checkSettings, identityOf, type TrainSettings } from "./settings.ts";
import { type ModelSource, openSource } from "./source.ts";
import { openStart, type Start } from "./start.ts";
import { type Machine, runStep, type StepReport, validationLoss } from "./step.ts";

/** Bytes of a parameter: itself, two moments, its gradient. */
const parameterBytes = 16;

export interface TrainPorts {
  /** Now, in milliseconds. */
  now(): number;
  /** True once the run is to stop; asked between lanes. */
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
  readonly checkpoints: string;
  readonly validationLoss: number | undefined;
}

interface Run extends Machine {
  readonly source: ModelSource;
  readonly backend: TrainingBackend;
  readonly identity: ReturnType<typeof identityOf>;
  readonly checkpoints: string;
  /** Where its weights are from, for people. */
  readonly weights: string;
  /** The last step that is done. */
  readonly step: number;
}

/** Sums over lanes are held of the dense part: one being added, and one a level of their tree. */
const sumBytes = (dense: number, lanes: number): number => Float32Array.BYTES_PER_ELEMENT * dense * (2 + Math.log2(lanes));

/** Bytes of this machine, or of the container where that has a limit. */
function memoryThere(): number {
  const limit = process.constrainedMemory(); // 0 without one
  return limit > 0 ? Math.min(limit, totalmem()) : totalmem();
}

function checkMemory(layout: Layout, lanes: number): void {
  const { parameters, floats } = layout;
  const dense = kindsOf(layout).dense.reduce((sum, { from, to }) => sum + to - from, 0);
  const bytes = floats * parameterBytes + sumBytes(dense, lanes);
  const memory = memoryThere();
  if (floats <= floatsMax && bytes <= memory) return;
  const gigabytes = (value: number): string => `${(value / 1e9).toFixed(1)} GB`;
  const most = Math.min(floatsMax * parameterBytes, memory);
  throw new AppError(
    `${parameters} parameters x ${parameterBytes} bytes (parameter, two moments, gradient) and sums of ${lanes} lanes are ${gigabytes(bytes)}, ` +
      `the memory here trains up to ${gigabytes(most)}; give more memory, or take a smaller model or fewer --lanes`,
    { code: "DoesNotFit", operation: "starting a run" },
  );
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
  await checkResult(source, settings.out, settings.codecs);
  const layout = layoutOf(source.program, source.family.expertTensors);
  checkMemory(layout, settings.lanes);
  const checkpoints = join(settings.out, "checkpoints");
  const newest = await stepToGoOnFrom(checkpoints, settings.schedule.steps);
  const start = await openStart(source, settings);
  try {
    return await openMachine(settings, { source, layout, checkpoints, newest, start });
  } finally {
    await start.close();
  }
}

/** A run as far as it is known before anything is computed. */
interface Plan extends Pick<Run, "source" | "layout" | "checkpoints"> {
  readonly newest: number | undefined;
  readonly start: Start;
}

async function openMachine(settings: TrainSettings, { source, layout, checkpoints, newest, start }: Plan): Promise<Run> {
  const [corpus, validation] = await openData(settings, source);
  const backend = await createTraining({ threads: settings.threads });
  const optimizer = createAdamW(layout.floats);
  const { told, weights } = start;
  const digests = { model: digestOf(source.config), data: digestOf(corpus.index) };
  const identity = identityOf(settings, { ...digests, weights, numerics: backend.numerics });
  try {
    if (newest === undefined) await start.fill(layout, optimizer.p);
    else await readCheckpoint(checkpoints, { step: newest, identity, layout, state: optimizer });
    const arrays = { parameters: optimizer.p, gradients: optimizer.g };
    const { sequenceLength } = settings;
    const model = { program: source.program, layout, ...arrays };
    const balancing = new Balancing(settings.balance ?? [], model);
    const network = await Network.open(backend, { ...model, sequenceLength });
    const machine: Machine = { settings, layout, corpus, validation, optimizer, network, balancing };
    return { ...machine, source, backend, identity, checkpoints, weights: told, step: newest ?? 0 };
  } catch (caught) {
    await corpus.close();
    await validation?.close();
    await backend.close();
    throw caught;
  }
}

const metricsSchema = z.object({ step: z.number() });

/** The step of a line of metrics; beyond all others where there is none, as in a line that a killed run left half written. */
function stepOf(line: string): number {
  try {
    return metricsSchema.parse(JSON.parse(line)).step;
  } catch {
    return Number.POSITIVE_INFINITY;
  }
}

/** One line a step, as JSON; those past the checkpoint that a run goes on from are made again. */
class Metrics {
  readonly #path: string;
  constructor(out: string) {
    this.#path = join(out, "metrics.jsonl");
  }

  async cutAfter(step: number): Promise<void> {
    const text = await readFile(this.#path, "utf8").catch((cause: NodeJS.ErrnoException) => {
      if (cause.code === "ENOENT") return "";
      throw cause;
    });
    const kept = text.split("\n").filter((line) => stepOf(line) <= step);
    const unfinished = `${this.#path}.tmp`;
    await writeFile(unfinished, kept.map((line) => `${line}\n`).join(""), { flush: true });
    await rename(unfinished, this.#path);
  }

  async add(line: object): Promise<void> {
    await writeFile(this.#path, `${JSON.stringify(line)}\n`, { flag: "a" });
  }
}

async function save(run: Run, step: number): Promise<void> {
  const { checkpoints, identity, layout, optimizer, settings } = run;
  await writeCheckpoint(checkpoints, { step, identity, layout, state: optimizer }, settings.checkpoint.keep);
}

/** Makes steps until all are done or the run is to stop; returns the last. Every step is either in a checkpoint or made again. */
async function makeSteps(run: Run, metrics: Metrics, ports: TrainPorts): Promise<{ readonly step: number; readonly loss?: number }> {
  const { settings } = run;
  const { steps } = settings.schedule;
  let [saved, validation] = [run.step, undefined as number | undefined];
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
    if (step % settings.checkpoint.everySteps !== 0 && step !== steps) continue;
    await save(run, step);
    saved = step;
    validation = await validationLoss(run);
    if (validation === undefined) continue;
    await metrics.add({ step, validationLoss: validation, perplexity: Math.exp(validation) });
    ports.onValidation({ step, loss: validation });
  }
  return { step: steps, ...(validation !== undefined && { loss: validation }) };
}

/** Throws AppError: BadOption, BadData, BadCheckpoint, OtherNumerics, DoesNotFit, UnsupportedOp, NonFiniteLoss. */
export async function train(settings: TrainSettings, ports: TrainPorts): Promise<RunEnd> {
  const run = await openRun(settings);
  const { backend, checkpoints, layout, optimizer, source, corpus, validation } = run;
  try {
    await mkdir(settings.out, { recursive: true });
    const metrics = new Metrics(settings.out);
    await metrics.cutAfter(run.step);
    ports.onStart({ device: backend.device, parameters: layout.parameters, samples: corpus.samples, weights: run.weights, step: run.step });
    const { step, loss } = await makeSteps(run, metrics, ports);
    const unfinished = { step, checkpoints, validationLoss: loss, store: undefined, folder: undefined };
    if (step < settings.schedule.steps) return unfinished;
    const { store, folder } = resultFolders(settings.out);
    const trained = { source, layout, parameters: optimizer.p };
    await writeTrainedStore(trained, store, settings.codecs);
    await writeTrainedFolder(trained, folder);
    return { ...unfinished, store, folder };
  } finally {
    await corpus.close();
    await validation?.close();
    await backend.close();
  }
}
