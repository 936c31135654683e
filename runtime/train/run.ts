// A run of training as one rank makes it, alone or among others: opens model, data and the last checkpoint, makes the steps that are left,
// and writes the result. To run it again is to go on: with the same settings each step has the same bits whether the run was stopped or
// not, and by how many ranks. Shell.
import { createHash } from "node:crypto";
import { join } from "node:path";
import { AppError } from "../../crds/common.ts";
import { createTraining } from "../compute/open-training.ts";
import type { TrainingBackend, WeightViews } from "../compute/training.ts";
import { newestCheckpoint, readCheckpoint, SavedModel, writeCheckpoint } from "./checkpoint.ts";
import { type Corpus, openCorpus } from "./corpus.ts";
import { Metrics } from "./metrics.ts";
import { evenRanks, rankedModel } from "./needs.ts";
import { checkMemory, fitsBeside, fitsRanks } from "./ranks/fits.ts";
import { leaveWorld } from "./ranks/member.ts";
import type { Fssdp } from "./ranks/plan.ts";
import { Rank } from "./ranks/rank.ts";
import { checkResult, resultFolders, writeAdapters, writeTrainedFolder, writeTrainedStore } from "./result.ts";
import { aloneSeat, type Seat } from "./seat.ts";
import { checkSettings, identityOf, type TrainSettings } from "./settings.ts";
import { type ModelSource, openSource } from "./source.ts";
import { newestOnAll, type Stage, spawnFrom, stagesAfter, stagesOf } from "./stages.ts";
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
  /** The world that follows this one, where one is known, and the place in it: state is handed on there, past the ranks by one that leaves.
   *  Unset, or undefined: none is known, and who stops leaves a checkpoint. */
  next?(): { readonly ranks: number; readonly rank: number } | undefined;
  onStart(start: RunStart): void;
  onStep(report: StepReport & { readonly seconds: number }): void;
  /** Is told how each step lay on ranks. */
  onRanks?(report: RanksReport): void;
  onValidation(report: { readonly step: number; readonly loss: number }): void;
  /** After this step there is no room on these ranks for the experts that spawn: the run ends, to go on with more ranks. */
  onShort?(step: number): void;
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
  readonly stage: Stage;
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

interface Run extends Opened {
  /** Throws where another writes the output now; of the first rank, which writes it. */
  mayWrite(): Promise<void>;
  /** True where the run is to stop and this rank cannot hand on its state without a checkpoint. */
  leavesCheckpoint(): boolean;
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

/** The step of the checkpoint to go on from, as this rank sees it. A model of more steps than are asked for would be another one than the
 *  run's. */
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

/** A run as its seat and its files have it. */
interface Placed {
  readonly settings: TrainSettings;
  readonly source: ModelSource;
  readonly seat: Seat;
  readonly recorder: Clocked | undefined;
  readonly checkpoints: string;
}

/** A rank that leaves has no part in the world: undefined once it has handed on what it has. */
async function openRun(placed: Placed, stage: Stage, newest: number | undefined): Promise<Opened | undefined> {
  const { settings, source, seat } = placed;
  const model = trainedModel(source, settings, stage.number);
  const needed = rankedModel(settings, model, seat.facts);
  const { rank } = seat.transport;
  if (!leaves(seat)) checkMemory(needed, [rank]);
  const { holdings } = seat;
  holdings?.enters(stage.number);
  holdings?.dropBefore(newest ?? 0);
  // A checkpoint is read where two states at once are too much: the run goes on, and repeats steps.
  if (holdings !== undefined && !leaves(seat) && !fitsBeside(needed, rank, holdings.stateBytes)) holdings.drop();
  const start = await openStart(source, settings);
  try {
    return await openMachine(placed, { stage, model, fssdp: needed.fssdp, newest, start });
  } finally {
    await start.close();
  }
}

const leaves = ({ transport, facts }: Seat): boolean => transport.rank >= facts.node.length;

/** A stage as far as it is known before anything is computed. */
interface Plan extends Pick<Run, "model" | "stage"> {
  readonly fssdp: Fssdp;
  readonly newest: number | undefined;
  readonly start: Start;
}

async function openMachine(placed: Placed, plan: Plan): Promise<Opened | undefined> {
  const { settings, seat, source, recorder, checkpoints } = placed;
  const { stage, model, fssdp, start } = plan;
  const { program, layout } = model;
  const [corpus, validation] = await openData(settings, source);
  let [backend, opened]: [TrainingBackend?, Rank?] = [];
  try {
    backend = await createTraining({ threads: settings.threads });
    if (recorder !== undefined) backend = recordedBackend(backend, recorder);
    const { told, weights } = start;
    const digests = { model: digestOf(source.config), data: digestOf(corpus.index) };
    const identity = identityOf(settings, { ...digests, weights, numerics: backend.numerics });
    const { sequences, sequenceLength, lanes, schedule, clip, balance = [], checkpoint, shadow } = settings;
    const frozen = await model.frozen(start);
    const batch = { sequences, sequenceLength, lanes };
    const learning = { optimizer: settings.optimizer, optimizerMemory: settings.optimizerMemory, schedule, clip, balance };
    const options = { seat, program, layout, frozen, fssdp, ...batch, ...learning, shadow };
    const agreed = { identity, checkpoint, validation: validation === undefined ? "none" : digestOf(validation.index) };
    if (leaves(seat)) {
      await leaveWorld({ ...options, agreed });
      for (const part of [corpus, validation, backend]) await part?.close();
      return undefined;
    }
    const rank = await Rank.open(backend, { ...options, agreed });
    opened = rank;
    const { step } = await rank.begin(async () => {
      // Where ranks find other checkpoints, on a volume that is shared late, the first one's is meant.
      const [newest = -1] = await rank.state.fromFirst(0, "step", Float64Array.of(plan.newest ?? -1));
      if (newest < 0) {
        await model.fill(start, (part, index) => rank.state.parameters(part, index));
        rank.state.filled();
      } else if (settings.spawn !== undefined && stage.number > 0 && newest === stage.from) {
        const parent = trainedModel(source, settings).layout;
        const { seed, spawn } = settings;
        const { state } = rank;
        await spawnFrom({ checkpoints, step: newest, identity, source, seed, mask: spawn.mask, parent, layout, state });
      } else await readCheckpoint(checkpoints, { step: newest, stored: rank.state.stored, identity, layout, state: rank.state });
      return Math.max(0, newest);
    });
    const machine: Machine = { settings, corpus, validation, rank };
    return { ...machine, stage, model, frozen, backend, identity, checkpoints, weights: told, step };
  } catch (caught) {
    await corpus.close();
    await validation?.close();
    opened?.close();
    await backend?.close();
    throw caught;
  }
}

/** Changes nothing where the run has the checkpoint already; that which a stage was born of is of the stage before. */
async function save(run: Run, step: number): Promise<void> {
  const { stage, checkpoints, identity, rank, settings, mayWrite } = run;
  if (stage.number > 0 && step === stage.from) return;
  const { layout } = run.model;
  const { state } = rank;
  const { keep } = settings.checkpoint;
  await writeCheckpoint(checkpoints, { step, stored: state.stored, identity, layout, state, keep, mayWrite });
}

/** Takes the loss on other data where a step has one to take; a run that was stopped or killed in it takes it when it goes on. */
async function validate(run: Run, step: number, metrics: Metrics | undefined, ports: TrainPorts): Promise<number | undefined> {
  if (!marks(run, step) || step === bornAt(run)) return undefined;
  run.model.at(step);
  const loss = await validationLoss(run, step, ports.stopped);
  if (loss === undefined) return undefined;
  await metrics?.add({ step, validationLoss: loss, perplexity: Math.exp(loss) });
  ports.onValidation({ step, loss });
  return loss;
}

/** The steps that are saved, and looked at on other data, each once: the one that a model is born after with that model. */
const marks = ({ settings: { checkpoint }, stage: { from, to } }: Run, step: number): boolean =>
  step > 0 && (step % checkpoint.everySteps === 0 || step === from || step === to);

/** The step that another stage follows; undefined in the last one. */
const bornAt = ({ settings, stage: { to } }: Run): number | undefined => (to < settings.schedule.steps ? to : undefined);

/** The loss on other data of the step that a run goes on from: as the first rank has told it, or taken now. */
async function validationSoFar(run: Run, metrics: Metrics | undefined, ports: TrainPorts): Promise<number | undefined> {
  const known = (await metrics?.cutAfter(run.step)) ?? Number.NaN;
  const [told = Number.NaN] = await run.rank.state.fromFirst(run.step, "validation", Float64Array.of(known));
  return Number.isNaN(told) ? validate(run, run.step, metrics, ports) : told;
}

/** Makes steps until all are done or the run is to stop; returns the last. Every step is either in a checkpoint or made again. */
async function makeSteps(
  run: Run,
  metrics: Metrics | undefined,
  ports: TrainPorts,
): Promise<{ readonly step: number; readonly loss?: number }> {
  const { to } = run.stage;
  if (marks(run, run.step)) await save(run, run.step); // a step that was made when this world began has no checkpoint yet
  let validation = await validationSoFar(run, metrics, ports);
  for (let step = run.step + 1; step <= to; step++) {
    const begin = ports.now();
    run.model.at(step);
    const made = (): ReturnType<typeof runStep> => runStep(run, step, ports.stopped);
    const done = await (ports.recorder?.around({ kind: "step", name: `step ${step}`, layer: -1 }, made) ?? made());
    if (done === undefined) {
      const wishes = await run.rank.state.gather(step - 1, "stop", Int32Array.of(Number(run.leavesCheckpoint())), () => 1);
      if (wishes.some(([wish]) => wish === 1)) await save(run, step - 1);
      return { step: step - 1 };
    }
    const { report, ranks } = done;
    const seconds = (ports.now() - begin) / 1000;
    await metrics?.add({ ...report, seconds });
    ports.onStep({ ...report, seconds });
    ports.onRanks?.(ranks);
    if (!marks(run, step)) continue;
    await save(run, step);
    validation = await validate(run, step, metrics, ports);
  }
  return { step: to, ...(validation !== undefined && { loss: validation }) };
}

/** Without the place in a next world, or the memory for the state of both at once, what a rank has is lost where nobody writes it. */
function leavesCheckpoint(settings: TrainSettings, { model, ports, seat }: Leaving): boolean {
  if (!ports.stopped()) return false;
  const next = ports.next?.();
  if (next === undefined || seat.holdings === undefined) return true;
  if (next.rank >= next.ranks) return false;
  return !fitsBeside(rankedModel(settings, model, evenRanks(next.ranks)), next.rank, seat.holdings.stateBytes);
}

interface Leaving {
  readonly model: TrainedModel;
  readonly ports: TrainPorts;
  readonly seat: Seat;
}

/** The result is read from the last checkpoint, so that no rank has to hold all of the model. */
async function writeResult({ model, frozen, identity, checkpoints, settings, rank, mayWrite }: Run): Promise<void> {
  const { store, folder, adapters } = resultFolders(settings.out);
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

/**
 * Every rank of a world calls it with the same settings, and each that leaves, which returns once others have its state. Throws AppError:
 * BadOption, BadData, BadCheckpoint, OtherNumerics, DoesNotFit, UnsupportedOp, NonFiniteLoss, GivenUp, and what ended the world.
 */
export async function train(settings: TrainSettings, ports: TrainPorts, seat: Seat = aloneSeat()): Promise<RunEnd> {
  const { recorder } = ports;
  const place = recorder === undefined ? seat : { ...seat, transport: recordedTransport(seat.transport, recorder) };
  const source = await openSource(settings.model);
  checkSettings(settings, source.program.maxContext);
  const checkpoints = join(settings.out, "checkpoints");
  const placed: Placed = { settings, source, seat: place, recorder, checkpoints };
  const stages = stagesOf(settings);
  await checkStages(placed, stages);
  let newest = await stepToGoOnFrom(checkpoints, settings.schedule.steps);
  if (stages.length > 1) newest = await newestOnAll(place, stages, newest);
  let end = unfinished(placed, newest ?? 0);
  for (const stage of stagesAfter(stages, end.step)) {
    if (stage.number > 0 && !fitsHere(placed, stage)) {
      ports.onShort?.(end.step);
      return end;
    }
    const opened = await openRun(placed, stage, newest);
    if (opened === undefined) return handedOn(placed);
    end = await trainStage(placed, ports, opened);
    if (end.step < stage.to) return end;
    newest = end.step;
  }
  return end;
}

const unfinished = ({ checkpoints }: Placed, step: number, loss?: number): RunEnd => ({
  step,
  checkpoints,
  validationLoss: loss,
  store: undefined,
  folder: undefined,
});

/** Throws AppError `DoesNotFit` before the first step where a later stage would fit on no ranks that there may be. */
async function checkStages({ settings, source, seat }: Placed, stages: readonly Stage[]): Promise<void> {
  const last = trainedModel(source, settings, stages.length - 1);
  await checkResult(last.result, settings.out, settings.codecs);
  if (stages.length < 2) return;
  const ranks = Math.max(seat.facts.node.length, settings.spawn?.ranks ?? 0);
  const needed = rankedModel(settings, last, evenRanks(ranks));
  for (const rank of needed.facts.node) checkMemory(needed, [rank]);
}

/** False where the ranks that there are have no room for a stage, and more may come. */
function fitsHere({ settings, source, seat }: Placed, stage: Stage): boolean {
  const { facts } = seat;
  if ((settings.spawn?.ranks ?? 0) <= facts.node.length) return true;
  const needed = rankedModel(settings, trainedModel(source, settings, stage.number), facts);
  return fitsRanks(needed);
}

async function trainStage(placed: Placed, ports: TrainPorts, opened: Opened): Promise<RunEnd> {
  const { settings, seat } = placed;
  const { backend, model, corpus, validation, weights, rank } = opened;
  const first = seat.transport.rank === 0;
  try {
    const writer = first ? await Writer.take(settings.out, seat) : undefined;
    const leaving = { model, ports, seat };
    const run: Run = {
      ...opened,
      mayWrite: async () => writer?.check(),
      leavesCheckpoint: () => leavesCheckpoint(settings, leaving),
    };
    const metrics = first ? new Metrics(settings.out, run.mayWrite) : undefined;
    ports.onStart({ device: backend.device, parameters: model.layout.parameters, samples: corpus.samples, weights, step: run.step });
    const { step, loss } = await makeSteps(run, metrics, ports);
    const end = unfinished(placed, step, loss);
    if (step < settings.schedule.steps) return end;
    if (first) await writeResult(run);
    const { adapters, ...folders } = resultFolders(settings.out);
    return { ...end, ...folders, ...(model.description !== undefined && { adapters }) };
  } finally {
    await corpus.close();
    await validation?.close();
    rank.close();
    await backend.close();
  }
}

/** The end of a rank that has left. */
function handedOn(placed: Placed): RunEnd {
  const { holdings } = placed.seat;
  const step = holdings?.standing.applied ?? 0;
  holdings?.drop();
  return unfinished(placed, Math.max(0, step));
}
