// A training run as one rank makes it: it opens model, data and the last checkpoint, makes the remaining steps, and writes the result.
// The bits of a step do not depend on restarts or the number of ranks.
import { join } from "node:path";
import { createTraining } from "../../compute/open-training.ts";
import type { TrainingBackend } from "../../compute/training.ts";
import { partOf } from "../../net/collectives/part.ts";
import { openStart, type Start } from "../model/initial-weights.ts";
import { type ModelSource, openSource } from "../model/model-source.ts";
import { resultFolders, writeAdapters, writeTrainedFolder, writeTrainedStore } from "../model/result-files.ts";
import type { TrainedModel } from "../model/trained-model.ts";
import { readCheckpoint, SavedModel } from "../model/training-checkpoint.ts";
import { leaveWorld } from "../ranks/begin-world.ts";
import { checkMemory, fitsBeside, fitsRanks, memoryThere, takesOver } from "../ranks/fits.ts";
import { Rank } from "../ranks/rank.ts";
import { aloneContext, type RankContext } from "../ranks/rank-context.ts";
import type { Fssdp } from "../ranks/step-plan.ts";
import { trainedModel } from "../recipes/index.ts";
import { type Clocked, recordedBackend, recordedContext } from "../trace/recorder.ts";
import { checkGroup, outerOf, placeAmong, unmetFolder } from "../worlds/going-on.ts";
import type { Kept } from "../worlds/rounds.ts";
import { checkStages, digestOf, openData, resultAt, stepToGoOnFrom } from "./before.ts";
import { isFinished, markFinished, unmarkFinished } from "./finished.ts";
import { evenRanks, rankedModel } from "./needs.ts";
import type { Machine } from "./run-step.ts";
import { type Made, Metrics, makeSteps, type Opened, type Run } from "./run-steps.ts";
import { newestOnAll, type Stage, spawnFrom, stagesAfter, stagesOf } from "./stages.ts";
import type { TrainPorts } from "./train-ports.ts";
import { checkSettings, identityOf, type TrainSettings } from "./train-settings.ts";
import { Writer } from "./writer.ts";

export interface RunEnd {
  readonly step: number;
  /** The model's folder after the last step; complete once the first rank has ended. */
  readonly store: string | undefined;
  readonly folder: string | undefined;
  readonly adapters?: string;
  readonly checkpoints: string;
  readonly validationLoss: number | undefined;
}

interface Placed {
  readonly settings: TrainSettings;
  readonly source: ModelSource;
  readonly context: RankContext;
  readonly recorder: Clocked | undefined;
  readonly checkpoints: string;
}

/** Undefined for a leaving rank, once it has handed on its state. */
async function openRun(placed: Placed, stage: Stage, newest: Kept | undefined): Promise<Opened | undefined> {
  const { settings, source, context } = placed;
  const model = trainedModel(source, settings, stage.number);
  const needed = rankedModel(settings, model, context.facts);
  const { rank } = context.transport;
  if (!leaves(context)) checkMemory(needed, [rank], memoryThere(context.group?.here));
  const { rankState } = context;
  rankState?.enters(stage.number);
  rankState?.dropBefore(newest?.step ?? 0);
  // If memory cannot hold both states, the checkpoint is read and steps are repeated.
  if (rankState !== undefined && !leaves(context) && !fitsBeside(needed, rank, rankState.stateBytes)) rankState.drop();
  const start = await openStart(source, settings);
  try {
    return await openMachine(placed, { stage, model, fssdp: needed.fssdp, newest, start });
  } finally {
    await start.close();
  }
}

const leaves = ({ transport, facts }: RankContext): boolean => transport.rank >= facts.node.length;

interface Plan extends Pick<Run, "model" | "stage"> {
  readonly fssdp: Fssdp;
  readonly newest: Kept | undefined;
  readonly start: Start;
}

async function openMachine(placed: Placed, plan: Plan): Promise<Opened | undefined> {
  const { settings, context, source, recorder, checkpoints } = placed;
  const { stage, model, fssdp, start } = plan;
  const { program, layout } = model;
  const [corpus, validation] = await openData(settings, source);
  let [backend, opened]: [TrainingBackend?, Rank?] = [];
  try {
    backend = await createTraining({ threads: settings.threads });
    if (recorder !== undefined) backend = recordedBackend(backend, recorder);
    const { reported, weights } = start;
    const digests = { model: digestOf(source.config), data: digestOf(corpus.index) };
    const { group } = context;
    const identity = identityOf(settings, { ...digests, weights, numerics: backend.numerics, world: group?.world });
    const outer = outerOf({ settings, context, identity, layout });
    const { sequences, sequenceLength, microBatches, schedule, clip, recipes, checkpoint, shadow } = settings;
    const frozen = await model.frozen(start);
    const batch = { sequences, sequenceLength, microBatches };
    const { optimizer, optimizerMemory } = settings;
    const learning = { optimizer, optimizerMemory, recipes, schedule, clip };
    const options = { context, program, layout, frozen, fssdp, ...batch, ...learning, shadow };
    const agreed = { identity, checkpoint, validation: validation === undefined ? "none" : digestOf(validation.index) };
    if (leaves(context)) {
      await leaveWorld({ ...options, agreed });
      for (const part of [corpus, validation, backend]) await part?.close();
      return undefined;
    }
    const rank = await Rank.open(backend, { ...options, agreed });
    opened = rank;
    let unmet = false;
    const { step } = await rank.begin(async () => {
      const own = outer === undefined ? plan.newest : await placeAmong(outer, settings);
      // Ranks may find other checkpoints on a slowly shared volume; the first rank's choice counts.
      const found = Float64Array.of(own?.step ?? -1, Number(own?.unmet ?? false));
      const [newest = -1, waits] = await rank.state.fromFirst(0, "step", found);
      unmet = waits === 1;
      if (newest < 0) {
        await model.fill(start, (part, index) => rank.state.parameters(part, index));
        rank.state.filled();
        await outer?.begin(rank.share);
        return 0;
      }
      if (stage.number > 0 && newest === stage.from) {
        const parent = trainedModel(source, settings).layout;
        await spawnFrom({ checkpoints, step: newest, identity, source, settings, parent, layout, state: rank.state });
        return newest;
      }
      const folder = unmet ? unmetFolder(settings) : checkpoints;
      await readCheckpoint(folder, { step: newest, stored: rank.state.stored, identity, layout, state: rank.state });
      return newest;
    });
    const machine: Machine = { settings, corpus, validation, rank };
    return { ...machine, stage, model, frozen, backend, identity, checkpoints, weights: reported, step, outer, unmet };
  } catch (caught) {
    await corpus.close();
    await validation?.close();
    opened?.close();
    await backend?.close();
    throw caught;
  }
}

/** True if a rank must write a checkpoint, since the next world cannot take its state: it has no place there, or memory is short. */
function leavesCheckpoint(settings: TrainSettings, { model, ports, context }: Leaving): boolean {
  if (!ports.stopped()) return false;
  const next = ports.next?.();
  if (next === undefined || context.rankState === undefined) return true;
  if (next.rank >= next.ranks) return false;
  const needed = rankedModel(settings, model, evenRanks(next.ranks));
  return !takesOver(needed, next.rank, context.rankState.stateBytes);
}

interface Leaving {
  readonly model: TrainedModel;
  readonly ports: TrainPorts;
  readonly context: RankContext;
}

/** The result is read from the last checkpoint, so that no rank has to hold the whole model. */
async function writeResult({ model, frozen, identity, checkpoints, settings, rank, mayWrite }: Run): Promise<void> {
  const { store, folder, adapters } = resultFolders(resultAt(settings));
  const { layout, description } = model;
  const saved = await SavedModel.open(checkpoints, { step: settings.schedule.steps, stored: rank.state.stored, identity, layout });
  try {
    const parameters = (part: number, index: number): Promise<Float32Array> => saved.parameters(part, index);
    const trained = model.ended(parameters, frozen);
    await mayWrite();
    await unmarkFinished(settings);
    await writeTrainedStore(trained, store, settings.codecs);
    await mayWrite();
    await writeTrainedFolder(trained, folder);
    if (description !== undefined) await writeAdapters({ layout, parameters }, adapters, description);
    await mayWrite();
    await markFinished(settings, identity);
  } finally {
    await saved.close();
  }
}

/**
 * Every rank of a world calls it with the same settings, and so do leaving ranks, for which it returns once others have their state.
 * Throws AppError: BadOption, BadData, BadCheckpoint, OtherNumerics, DoesNotFit, UnsupportedOp, NonFiniteLoss, GivenUp, and what ended
 * the world.
 */
export async function train(settings: TrainSettings, ports: TrainPorts, context: RankContext = aloneContext()): Promise<RunEnd> {
  const { recorder } = ports;
  const place = recorder === undefined ? context : recordedContext(context, recorder);
  checkGroup(settings, context);
  const source = await openSource(settings.model);
  checkSettings(settings, source.program.maxContext);
  const checkpoints = join(settings.out, "checkpoints");
  let placed: Placed = { settings, source, context: place, recorder, checkpoints };
  const stages = stagesOf(settings);
  if (!leaves(place)) await checkStages(settings, source, { ranks: place.facts.node.length });
  const { steps } = settings.schedule;
  let newest = await stepToGoOnFrom(checkpoints, steps);
  if (!leaves(place) && (newest?.step ?? 0) < steps && (await isFinished(settings, source, { world: place.group?.world })))
    return complete(placed, unfinished(placed, steps), trainedModel(source, settings, stages.length - 1));
  if (stages.length > 1) newest = await newestOnAll(place, stages, newest);
  let end = unfinished(placed, newest?.step ?? 0);
  for (const stage of stagesAfter(stages, end.step)) {
    if (stage.number > 0 && !fitsHere(placed, stage)) {
      const step = Math.max(end.step, placed.context.rankState?.commitState.applied ?? 0); // The ranks' state may be newer than the checkpoint.
      ports.onShort?.(step);
      return { ...end, step };
    }
    const opened = await openRun(placed, stage, newest);
    if (opened === undefined) return handedOn(placed);
    placed = { ...placed, context: staying(placed.context) };
    const { all, ...made } = await trainStage(placed, ports, opened);
    end = made;
    if (!all) return end;
    newest = { step: end.step, unmet: false };
  }
  return end;
}

const staying = (context: RankContext): RankContext => ({ ...context, transport: partOf(context.transport, 0, context.facts.node.length) });

const unfinished = ({ checkpoints }: Placed, step: number, loss?: number): RunEnd => ({
  step,
  checkpoints,
  validationLoss: loss,
  store: undefined,
  folder: undefined,
});

function complete({ settings }: Placed, end: RunEnd, { description }: TrainedModel): RunEnd {
  const { adapters, ...folders } = resultFolders(resultAt(settings));
  return { ...end, ...folders, ...(description !== undefined && { adapters }) };
}

function fitsHere({ settings, source, context }: Placed, stage: Stage): boolean {
  const { facts } = context;
  if ((settings.ranksMax ?? 0) <= facts.node.length) return true;
  const needed = rankedModel(settings, trainedModel(source, settings, stage.number), facts);
  return fitsRanks(needed);
}

async function trainStage(placed: Placed, ports: TrainPorts, opened: Opened): Promise<RunEnd & Pick<Made, "all">> {
  const { settings, context } = placed;
  const { backend, model, corpus, validation, weights, rank } = opened;
  const first = context.transport.rank === 0;
  try {
    const writer = first ? await Writer.take(settings.out, context) : undefined;
    const leaving = { model, ports, context };
    const run: Run = {
      ...opened,
      mayWrite: async () => writer?.check(),
      leavesCheckpoint: () => leavesCheckpoint(settings, leaving),
    };
    const metrics = first ? new Metrics(settings.out, run.mayWrite) : undefined;
    ports.onStart({ device: backend.device, parameters: model.layout.parameters, samples: corpus.samples, weights, step: run.step });
    const { step, all, loss } = await makeSteps(run, metrics, ports);
    const end = unfinished(placed, step, loss);
    if (!all || step < settings.schedule.steps) return { ...end, all };
    if (first && (context.group?.world ?? 0) === 0) await writeResult(run);
    return { ...complete(placed, end, model), all };
  } finally {
    await corpus.close();
    await validation?.close();
    rank.close();
    await backend.close();
  }
}

function handedOn(placed: Placed): RunEnd {
  const { rankState } = placed.context;
  const step = rankState?.commitState.applied ?? 0;
  rankState?.drop();
  return unfinished(placed, Math.max(0, step));
}
