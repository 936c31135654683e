// A run of training as one rank makes it, alone or among others: opens model, data and the last checkpoint, makes the steps that are left,
// and writes the result. To run it again is to go on: with the same settings each step has the same bits whether the run was stopped or
// not, and by how many ranks. Shell.
import { createHash } from "node:crypto";
import { join } from "node:path";
import { AppError } from "../../crds/common.ts";
import { createTraining } from "../compute/open-training.ts";
import type { TrainingBackend, WeightViews } from "../compute/training.ts";
import { wantsWholeStep } from "./balancing.ts";
import { newestCheckpoint, readCheckpoint, SavedModel, writeCheckpoint } from "./checkpoint.ts";
import { type Corpus, openCorpus } from "./corpus.ts";
import { checkGroup, outerOf, placeAmong, unmetFolder } from "./local/going-on.ts";
import type { Outer } from "./local/outer.ts";
import { type Kept, sparedBefore } from "./local/rounds.ts";
import { Metrics } from "./metrics.ts";
import { checkMemory, fitsBeside, memoryThere } from "./ranks/fits.ts";
import { fssdpOf } from "./ranks/fssdp.ts";
import type { Fssdp } from "./ranks/plan.ts";
import { Rank } from "./ranks/rank.ts";
import { checkResult, resultFolders, writeAdapters, writeTrainedFolder, writeTrainedStore } from "./result.ts";
import { aloneSeat, type Seat } from "./seat.ts";
import { checkSettings, identityOf, type TrainSettings } from "./settings.ts";
import { type ModelSource, openSource } from "./source.ts";
import { openStart, type Start } from "./start.ts";
import { type Machine, type RanksReport, runStep, type StepReport, validationLoss } from "./step.ts";
import { type Clocked, recordedBackend, recordedTransport } from "./trace/recorder.ts";
import { type TrainedModel, trainedModel } from "./trained.ts";
import { Writer } from "./writer.ts";

export interface TrainPorts {
  /** Now, in milliseconds. */
  now(): number;
  /** True once the run is to stop. Alone, a rank is asked before each part of each lane; among others, at the beginning of each step and
   *  at each layer forward, and all stop where one is to. */
  stopped(): boolean;
  onStart(start: RunStart): void;
  onStep(report: StepReport & { readonly seconds: number }): void;
  /** Is told how each step lay on ranks. */
  onRanks?(report: RanksReport): void;
  onValidation(report: { readonly step: number; readonly loss: number }): void;
  /** Is told where the time of steps goes. Unset: nothing stands before what computes and sends. */
  readonly recorder?: Clocked | undefined;
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
  /** Where the model is, when all steps are done: when the first rank has ended, which writes it. */
  readonly store: string | undefined;
  readonly folder: string | undefined;
  /** Where adapters are as they were trained, when there are some. */
  readonly adapters?: string;
  readonly checkpoints: string;
  readonly validationLoss: number | undefined;
}

interface Opened extends Machine {
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
  /** The way to other worlds, where there are some. */
  readonly outer: Outer | undefined;
  /** Whether the worlds are to meet at the end of that step before anything else. */
  readonly unmet: boolean;
}

interface Run extends Opened {
  /** Throws where another writes the output now; of the first rank, which writes it. */
  mayWrite(): Promise<void>;
}

const resultAt = ({ out, result = out }: TrainSettings): string => result;

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
async function stepToGoOnFrom(checkpoints: string, steps: number): Promise<Kept | undefined> {
  const newest = await newestCheckpoint(checkpoints);
  if (newest === undefined || newest <= steps) return newest === undefined ? undefined : { step: newest, unmet: false };
  throw new AppError(
    `--steps is ${steps}, and the newest checkpoint in ${checkpoints} is of step ${newest}; give as many, or another --out`,
    {
      code: "BadOption",
      operation: "starting a run",
    },
  );
}

async function openRun(settings: TrainSettings, seat: Seat, recorder: Clocked | undefined): Promise<Opened> {
  checkGroup(settings, seat);
  const source = await openSource(settings.model);
  checkSettings(settings, source.program.maxContext);
  const model = trainedModel(source, settings);
  await checkResult(model.result, resultAt(settings), settings.codecs);
  const { sequences, sequenceLength, lanes, balance = [] } = settings;
  const { program, layout, frozenFloats } = model;
  const { optimizer, optimizerMemory, local } = settings;
  const ranked = {
    optimizer,
    optimizerMemory,
    local,
    program,
    layout,
    frozenFloats,
    sequences,
    sequenceLength,
    lanes,
    shadow: settings.shadow,
  };
  const fssdp = fssdpOf(settings.fssdp ?? {}, { ...ranked, ranks: seat.transport.ranks, wholeStep: wantsWholeStep(balance) });
  const needed = { ...ranked, facts: seat.facts, fssdp };
  const { rank } = seat.transport;
  checkMemory(needed, [rank], memoryThere(seat.group?.here));
  const checkpoints = join(settings.out, "checkpoints");
  const newest = await stepToGoOnFrom(checkpoints, settings.schedule.steps);
  const { holdings } = seat;
  holdings?.dropBefore(newest?.step ?? 0);
  // A checkpoint is read where two states at once are too much: the run goes on, and repeats steps.
  if (holdings !== undefined && !fitsBeside(needed, rank, holdings.stateBytes)) holdings.drop();
  const start = await openStart(source, settings);
  try {
    return await openMachine(settings, { recorder, seat, source, model, fssdp, checkpoints, newest, start });
  } finally {
    await start.close();
  }
}

/** A run as far as it is known before anything is computed. */
interface Plan extends Pick<Run, "model" | "checkpoints"> {
  readonly source: ModelSource;
  readonly recorder: Clocked | undefined;
  readonly seat: Seat;
  readonly fssdp: Fssdp;
  readonly newest: Kept | undefined;
  readonly start: Start;
}

async function openMachine(settings: TrainSettings, plan: Plan): Promise<Opened> {
  const { seat, source, model, fssdp, checkpoints, start } = plan;
  const { program, layout } = model;
  const [corpus, validation] = await openData(settings, source);
  let [backend, opened]: [TrainingBackend?, Rank?] = [];
  try {
    backend = await createTraining({ threads: settings.threads });
    if (plan.recorder !== undefined) backend = recordedBackend(backend, plan.recorder);
    const { told, weights } = start;
    const digests = { model: digestOf(source.config), data: digestOf(corpus.index) };
    const { group } = seat;
    const identity = identityOf(settings, { ...digests, weights, numerics: backend.numerics, world: group?.world });
    const outer = outerOf({ settings, seat, identity, layout });
    const { sequences, sequenceLength, lanes, schedule, clip, balance = [], checkpoint, shadow } = settings;
    const frozen = await model.frozen(start);
    const batch = { sequences, sequenceLength, lanes };
    const { optimizer, optimizerMemory, local } = settings;
    const learning = { optimizer, optimizerMemory, local, schedule, clip, balance };
    const options = { seat, program, layout, frozen, fssdp, ...batch, ...learning, shadow };
    const agreed = { identity, checkpoint, validation: validation === undefined ? "none" : digestOf(validation.index) };
    const rank = await Rank.open(backend, { ...options, agreed });
    opened = rank;
    let unmet = false;
    const { step } = await rank.begin(async () => {
      const own = outer === undefined ? plan.newest : await placeAmong(outer, settings);
      // Where ranks find other checkpoints, on a volume that is shared late, the first one's is meant.
      const found = Float64Array.of(own?.step ?? -1, Number(own?.unmet ?? false));
      const [newest = -1, waits] = await rank.state.fromFirst(0, "step", found);
      unmet = waits === 1;
      if (newest < 0) {
        await model.fill(start, (part, index) => rank.state.parameters(part, index));
        rank.state.filled();
        await outer?.begin(rank.share);
        return 0;
      }
      const folder = unmet ? unmetFolder(settings) : checkpoints;
      await readCheckpoint(folder, { step: newest, stored: rank.state.stored, identity, layout, state: rank.state });
      return newest;
    });
    const machine: Machine = { settings, corpus, validation, rank };
    return { ...machine, model, frozen, backend, identity, checkpoints, weights: told, step, outer, unmet };
  } catch (caught) {
    await corpus.close();
    await validation?.close();
    opened?.close();
    await backend?.close();
    throw caught;
  }
}

/** Changes nothing where the run has the checkpoint already. */
async function save(run: Run, step: number): Promise<void> {
  const { keep, everySteps } = run.settings.checkpoint;
  const spared = run.outer && sparedBefore(step, everySteps);
  await writeCheckpoint(run.checkpoints, { ...stateOf(run), step, keep, spared });
}

function stateOf({ identity, rank, model, mayWrite }: Run) {
  return { stored: rank.state.stored, identity, layout: model.layout, state: rank.state, mayWrite };
}

/** Where worlds meet at the end of a step, they do; false where one of them stops, so that all are to. */
async function met(run: Run, step: number): Promise<boolean> {
  const { outer, rank, settings } = run;
  if (outer === undefined) return true;
  if (step % (settings.local?.steps ?? 1) !== 0) await outer.made(step);
  else if (!(await outer.meet(step, rank.share))) {
    await writeCheckpoint(unmetFolder(settings), { ...stateOf(run), step, keep: 1 });
    return false;
  }
  return true;
}

/** Takes the loss on other data where a step has one to take; a run that was stopped or killed in it takes it when it goes on. */
async function validate(run: Run, step: number, metrics: Metrics | undefined, ports: TrainPorts): Promise<number | undefined> {
  if (!savesAfter(run, step)) return undefined;
  const loss = await validationLoss(run, step, ports.stopped);
  if (loss === undefined) return undefined;
  await metrics?.add({ step, validationLoss: loss, perplexity: Math.exp(loss) });
  ports.onValidation({ step, loss });
  return loss;
}

const savesAfter = ({ settings: { checkpoint, schedule } }: Run, step: number): boolean =>
  step > 0 && (step % checkpoint.everySteps === 0 || step === schedule.steps);

/** The loss on other data of the step that a run goes on from: as the first rank has told it, or taken now. */
async function validationSoFar(run: Run, metrics: Metrics | undefined, ports: TrainPorts): Promise<number | undefined> {
  const known = (await metrics?.cutAfter(run.step)) ?? Number.NaN;
  const [told = Number.NaN] = await run.rank.state.fromFirst(run.step, "validation", Float64Array.of(known));
  if (run.unmet) return undefined;
  return Number.isNaN(told) ? validate(run, run.step, metrics, ports) : told;
}

/** Where worlds meet none of them goes on, and drops a checkpoint later, before all have this one. */
async function saveMet(run: Run, step: number, metrics: Metrics | undefined, ports: TrainPorts): Promise<number | undefined> {
  if (!savesAfter(run, step)) return undefined;
  await save(run, step);
  await run.outer?.saved(step);
  return validate(run, step, metrics, ports);
}

interface Made {
  /** The last step. */
  readonly step: number;
  /** Whether all are done, and all worlds have met. */
  readonly all: boolean;
  readonly loss?: number;
}

/** Makes steps until all are done or the run is to stop. Every step is either in a checkpoint or made again. */
async function makeSteps(run: Run, metrics: Metrics | undefined, ports: TrainPorts): Promise<Made> {
  const { outer, settings, unmet } = run;
  const { steps } = settings.schedule;
  if (savesAfter(run, run.step) && !unmet) await save(run, run.step); // a step that was made when this world began has no checkpoint yet
  let validation = await validationSoFar(run, metrics, ports);
  if (unmet) {
    if (!(await met(run, run.step))) return { step: run.step, all: false };
    validation = await saveMet(run, run.step, metrics, ports);
  }
  for (let step = run.step + 1; step <= steps; step++) {
    const begin = ports.now();
    const made = (): ReturnType<typeof runStep> => runStep(run, step, ports.stopped);
    const done = await (ports.recorder?.around({ kind: "step", name: `step ${step}`, layer: -1 }, made) ?? made());
    if (done === undefined) {
      await save(run, step - 1);
      await outer?.stops(step);
      return { step: step - 1, all: false };
    }
    const { report, ranks } = done;
    const seconds = (ports.now() - begin) / 1000;
    await metrics?.add({ ...report, seconds });
    ports.onStep({ ...report, seconds });
    ports.onRanks?.(ranks);
    if (!(await met(run, step))) return { step, all: false };
    validation = (await saveMet(run, step, metrics, ports)) ?? validation;
  }
  return { step: steps, all: true, ...(validation !== undefined && { loss: validation }) };
}

/** The result is read from the last checkpoint, so that no rank has to hold all of the model. */
async function writeResult({ model, frozen, identity, checkpoints, settings, rank, mayWrite }: Run): Promise<void> {
  const { store, folder, adapters } = resultFolders(resultAt(settings));
  const { layout, description } = model;
  const saved = await SavedModel.open(checkpoints, { step: settings.schedule.steps, stored: rank.state.stored, identity, layout });
  try {
    const parameters = (part: number, index: number): Promise<Float32Array> => saved.parameters(part, index);
    const trained = model.ended(parameters, frozen);
    await mayWrite();
    await writeTrainedStore(trained, store, settings.codecs);
    await mayWrite();
    await writeTrainedFolder(trained, folder);
    if (description !== undefined) await writeAdapters({ layout, parameters }, adapters, description);
  } finally {
    await saved.close();
  }
}

/** Every rank of a world calls it with the same settings. Throws AppError: BadOption, BadData, BadCheckpoint, OtherNumerics, DoesNotFit,
 *  UnsupportedOp, NonFiniteLoss, GivenUp, and what ended the world. */
export async function train(settings: TrainSettings, ports: TrainPorts, seat: Seat = aloneSeat()): Promise<RunEnd> {
  const { recorder } = ports;
  const place = recorder === undefined ? seat : { ...seat, transport: recordedTransport(seat.transport, recorder) };
  const opened = await openRun(settings, place, recorder);
  const { backend, checkpoints, model, corpus, validation, weights, rank } = opened;
  const first = seat.transport.rank === 0;
  try {
    const writer = first ? await Writer.take(settings.out, seat) : undefined;
    const run: Run = { ...opened, mayWrite: async () => writer?.check() };
    const metrics = first ? new Metrics(settings.out, run.mayWrite) : undefined;
    ports.onStart({ device: backend.device, parameters: model.layout.parameters, samples: corpus.samples, weights, step: run.step });
    const { step, all, loss } = await makeSteps(run, metrics, ports);
    const unfinished = { step, checkpoints, validationLoss: loss, store: undefined, folder: undefined };
    if (!all) return unfinished;
    if (first && (seat.group?.world ?? 0) === 0) await writeResult(run);
    const { adapters, ...folders } = resultFolders(resultAt(settings));
    return { ...unfinished, ...folders, ...(model.description !== undefined && { adapters }) };
  } finally {
    await corpus.close();
    await validation?.close();
    rank.close();
    await backend.close();
  }
}
