// The check of a run before its ranks exist, for a given memory. It reads little and writes nothing; ranks find problems that only all
// bytes show.
import { join } from "node:path";
import { AppError } from "../../../crds/common.ts";
import { createTraining } from "../../compute/open-training.ts";
import type { ModelProgram } from "../../kernels/segment.ts";
import { Loopback } from "../../net/collectives/loopback.ts";
import type { Corpus } from "../data/corpus.ts";
import { openStart } from "../model/initial-weights.ts";
import { type ModelSource, openSource } from "../model/model-source.ts";
import type { TrainedModel } from "../model/trained-model.ts";
import { type Identity, SavedModel, stepsOfCheckpoints } from "../model/training-checkpoint.ts";
import { arithmeticOf } from "../optimizers/open.ts";
import { checkRanks, fitsRanks, neededText } from "../ranks/fits.ts";
import { trainedModel } from "../recipes/index.ts";
import { outerOf, placeAmong, unmetFolder } from "../worlds/going-on.ts";
import { contextInWorld, firstRanks } from "../worlds/group.ts";
import type { Kept } from "../worlds/rounds.ts";
import { checkStages, digestOf, openData, stepToGoOnFrom } from "./before.ts";
import { isFinished } from "./finished.ts";
import { evenRanks, leastOf, rankedModel } from "./needs.ts";
import { type Stage, stagesAfter, stagesOf } from "./stages.ts";
import { checkSettings, identityOf, type TrainSettings } from "./train-settings.ts";

const sequencesMax = 1024;
const tokensMax = 2 ** 22;
/** The number of attempts to read checkpoints, since training pods may drop them meanwhile. */
const looksMax = 5;

export interface AskedRun {
  readonly worlds: readonly TrainSettings[];
  /** The ranks of all worlds together, and the least number that may train. */
  readonly ranks: number;
  readonly minRanks: number;
  /** Bytes of each rank. */
  readonly memory: number;
}

interface Needed {
  readonly ranks: number;
  readonly text: string;
  readonly fits: boolean;
}

export interface Feasible {
  readonly asked: Needed;
  readonly least: Needed;
  /** The smallest world that fits, and whether one rank alone fits; undefined where experts spawn, which changes it. */
  readonly sizes: { readonly leastRanks?: number; readonly alone: boolean } | undefined;
}

interface Opened {
  readonly asked: AskedRun;
  readonly settings: TrainSettings;
  readonly source: ModelSource;
  readonly stages: readonly Stage[];
  readonly weights: string | undefined;
}

/**
 * Throws what the ranks would throw before their first step: BadOption, BadData, BadCheckpoint, DoesNotFit, UnsupportedOp
 * and others.
 */
export async function checkRun(asked: AskedRun): Promise<Feasible> {
  const { worlds, ranks, minRanks, memory } = asked;
  const [settings] = worlds as readonly [TrainSettings];
  const source = await openSource(settings.model);
  for (const each of worlds) checkSettings(each, source.program.maxContext);
  const stages = stagesOf(settings);
  await checkStages(settings, source, { ranks: Math.max(...sizesOf(asked, ranks)), memory });
  const start = await openStart(source, settings, false);
  await start.close();
  const opened = { asked, settings, source, stages, weights: start.weights };
  const model = await goingOn(opened);
  await isFinished(settings, source, { world: worlds.length > 1 ? 0 : undefined, weights: false }); // Throws for another run's result.
  for (const size of sizesOf(asked, ranks)) checkRanks(rankedModel(settings, model, evenRanks(size)), memory);
  await compiles(model.program, settings);
  const needs = (count: number): Needed => neededBy(opened, model, count);
  return { asked: needs(ranks), least: needs(Math.min(ranks, minRanks)), sizes: stages.length > 1 ? undefined : sizesFor(opened, model) };
}

function sizesOf({ worlds }: AskedRun, ranks: number): readonly number[] {
  const firsts = firstRanks(ranks, worlds.length);
  return [...new Set(firsts.map((first, world) => (firsts[world + 1] ?? ranks) - first))];
}

function neededBy({ asked, settings }: Opened, model: TrainedModel, ranks: number): Needed {
  const sizes = sizesOf(asked, ranks).map((size) => rankedModel(settings, model, evenRanks(size)));
  const [fewest] = sizes.toSorted((a, b) => a.facts.node.length - b.facts.node.length);
  return { ranks, text: neededText(fewest as (typeof sizes)[number]), fits: sizes.every((size) => fitsRanks(size, asked.memory)) };
}

/** What was asked for fits, so no smallest size may be above it. */
function sizesFor({ asked, settings }: Opened, model: TrainedModel): Feasible["sizes"] {
  const { memory, ranks } = asked;
  const several = sizesOf(asked, ranks).filter((size) => size > 1);
  const leastRanks = Math.min(leastOf(settings, model, memory) ?? Number.POSITIVE_INFINITY, ...several);
  const alone = fitsRanks(rankedModel(settings, model, evenRanks(1)), memory);
  return { ...(Number.isFinite(leastRanks) && { leastRanks }), alone };
}

/** The model of the stage that the run continues in, once data and checkpoints of all worlds match it. */
async function goingOn(opened: Opened): Promise<TrainedModel> {
  const identities: Identity[] = [];
  for (const [world, each] of opened.asked.worlds.entries()) identities.push(await identityIn(opened, each, world));
  for (let look = 1; ; look++) {
    const found = await checkpointsOf(opened, identities);
    const gone = await openAll(opened, identities, found);
    if (gone === undefined) return found.model;
    if (look < looksMax) continue;
    throw new AppError(`${gone}: checkpoints were dropped ${looksMax} times while they were looked at`, {
      code: "BadCheckpoint",
      operation: "checking a run",
      retry: "backoff",
    });
  }
}

interface Found {
  readonly model: TrainedModel;
  readonly stage: Stage | undefined;
  readonly places: readonly (Kept | undefined)[];
}

async function checkpointsOf(opened: Opened, identities: readonly Identity[]): Promise<Found> {
  const { asked, settings, source, stages } = opened;
  const newest: (Kept | undefined)[] = [];
  for (const { out, schedule } of asked.worlds) newest.push(await stepToGoOnFrom(join(out, "checkpoints"), schedule.steps));
  const [stage] = stagesAfter(stages, newest[0]?.step ?? 0);
  const model = trainedModel(source, settings, stage?.number);
  return { model, stage, places: asked.worlds.length > 1 ? await placesAmong(opened, identities, model) : newest };
}

/** Returns the folder of a checkpoint that has vanished: pods of the former spec may train and drop old ones. */
async function openAll(
  { asked, settings, source }: Opened,
  identities: readonly Identity[],
  { model, stage, places }: Found,
): Promise<string | undefined> {
  for (const [world, kept] of places.entries()) {
    const each = asked.worlds[world] as TrainSettings;
    if (kept === undefined) continue;
    const born = stage !== undefined && stage.number > 0 && kept.step === stage.from;
    const { layout } = born ? trainedModel(source, settings) : model;
    const folder = kept.unmet ? unmetFolder(each) : join(each.out, "checkpoints");
    const stored = 1 + arithmeticOf(each).state.length;
    try {
      await (await SavedModel.open(folder, { step: kept.step, stored, identity: identities[world] as Identity, layout })).close();
    } catch (caught) {
      if ((await stepsOfCheckpoints(folder)).includes(kept.step)) throw caught;
      return folder;
    }
  }
  return undefined;
}

/** What a world's checkpoints must agree with, except for the processor: ranks may have another than this process. */
async function identityIn({ asked, source, weights }: Opened, settings: TrainSettings, world: number): Promise<Identity> {
  const [corpus, validation] = await openData(settings, source);
  try {
    for (const each of validation === undefined ? [corpus] : [corpus, validation]) await lookAt(each, settings.sequenceLength);
    const digests = { model: digestOf(source.config), data: digestOf(corpus.index) };
    const many = asked.worlds.length > 1;
    const { numerics: _ranks, ...rest } = identityOf(settings, { ...digests, weights, numerics: "", ...(many && { world }) });
    return rest;
  } finally {
    await corpus.close();
    await validation?.close();
  }
}

/** Throws AppError `BadData` for a token that the model does not have. */
async function lookAt(corpus: Corpus, sequenceLength: number): Promise<void> {
  const count = Math.min(corpus.samples, sequencesMax, Math.max(1, Math.floor(tokensMax / sequenceLength)));
  for (let i = 0; i < count; i++) await corpus.read(Math.floor((i * corpus.samples) / count));
}

async function placesAmong({ asked }: Opened, identities: readonly Identity[], { layout }: TrainedModel) {
  const { worlds } = asked;
  const hub = new Loopback(worlds.length);
  const facts = evenRanks(worlds.length);
  const place = async (settings: TrainSettings, world: number): Promise<Kept | undefined> => {
    const context = contextInWorld({ transport: hub.transport(world), world: 1, facts }, worlds.length);
    const outer = outerOf({ settings, context, identity: identities[world] as Identity, layout });
    try {
      return outer === undefined ? undefined : await placeAmong(outer, settings);
    } catch (caught) {
      hub.end(caught);
      throw caught;
    }
  };
  return Promise.all(worlds.map(place));
}

async function compiles({ embed, layers, head }: ModelProgram, { sequenceLength }: TrainSettings): Promise<void> {
  const backend = await createTraining({ threads: 1 });
  try {
    await backend.compile(embed, sequenceLength);
    for (const layer of layers) {
      await backend.compile(layer.block, sequenceLength);
      if (layer.kind === "moe") await backend.compileExpert(layer.expert);
    }
    await backend.compileLoss(head);
  } finally {
    await backend.close();
  }
}
