// One step of training: the gradients of all lanes, their norm, the update of every parameter; and the loss on other data. What a step
// reads is given by its number, and nothing is changed before all lanes are done, so that a step given up leaves no trace.
import { AppError } from "../../crds/common.ts";
import { type Optimizer, stepNumbers } from "./adamw.ts";
import type { Balancing } from "./balancing.ts";
import { readLane, samplesOf } from "./batch.ts";
import type { Corpus } from "./corpus.ts";
import { kindsOf, type Layout, piecesOf, unitsOf } from "./layout.ts";
import { type Network, PassStopped } from "./network.ts";
import { rateOf } from "./schedule.ts";
import type { TrainSettings } from "./settings.ts";

/** Sequences of validation data that the loss is taken of, at most. */
const validationSequencesMax = 256;

export interface Machine {
  readonly settings: TrainSettings;
  readonly layout: Layout;
  readonly optimizer: Optimizer;
  readonly network: Network;
  readonly balancing: Balancing;
  readonly corpus: Corpus;
  readonly validation: Corpus | undefined;
}

export interface StepReport {
  readonly step: number;
  /** Mean of the losses of all tokens. */
  readonly loss: number;
  /** Of all recipes and layers, beside the other; 0 where no recipe has a loss. */
  readonly balanceLoss: number;
  readonly gradientNorm: number;
  readonly rate: number;
  readonly tokens: number;
  /** Rows of the busiest expert over the mean, in the layer where that is most; 1 where no layer has experts. */
  readonly imbalance: number;
  /** Rows that experts computed, in all layers. */
  readonly expertRows: number;
}

const sumOf = (values: Float32Array): number => values.reduce((sum, value) => sum + value, 0);

/** As many lanes as are worked on at once; their number changes no bits but those of a loss that is about all of them. */
const lanesAtOnce = ({ settings, balancing }: Machine): number => (balancing.wholeStep ? settings.lanes : 1);

async function notFinite(machine: Machine, step: number, lane: number): Promise<never> {
  const { settings, corpus } = machine;
  const documents: string[] = [];
  for (const sample of samplesOf(settings, corpus.samples, step, lane)) documents.push((await corpus.documentsOf(sample)).join("-"));
  throw new AppError(
    `step ${step}: the loss of lane ${lane} is not finite (documents ${documents.join(", ")}); ` +
      "lower --learning-rate or --clip, or import the text without these documents, and go on from a checkpoint",
    { code: "NonFiniteLoss", operation: "training" },
  );
}

/** Undefined where the passes were stopped. */
async function unlessStopped<T>(passes: Promise<T>): Promise<T | undefined> {
  try {
    return await passes;
  } catch (caught) {
    if (caught instanceof PassStopped) return undefined;
    throw caught;
  }
}

/** The sum of the losses of a step's tokens. */
async function gradients(machine: Machine, step: number, stopped: () => boolean): Promise<number> {
  const { settings, network, corpus, optimizer, balancing } = machine;
  const atOnce = lanesAtOnce(machine);
  const scale = 1 / (settings.sequences * settings.sequenceLength);
  optimizer.g.fill(0);
  let total = 0;
  for (let first = 0; first < settings.lanes; first += atOnce) {
    const numbers = Array.from({ length: Math.min(atOnce, settings.lanes - first) }, (_, i) => first + i);
    const lanes = [];
    for (const lane of numbers) lanes.push(await readLane(corpus, samplesOf(settings, corpus.samples, step, lane)));
    for (const [i, losses] of (await network.addGradients(lanes, scale, balancing, stopped)).entries()) {
      const sum = sumOf(losses);
      if (!Number.isFinite(sum)) await notFinite(machine, step, numbers[i] as number);
      total += sum;
    }
  }
  network.finishGradients();
  return total;
}

/** Squares are summed by pieces, so that ranks that own some of them find the same norm. */
function normOf({ layout, optimizer }: Machine): number {
  const { dense, experts } = kindsOf(layout);
  return Math.sqrt([...dense.flatMap(piecesOf), ...experts].reduce((sum, { from, to }) => sum + optimizer.squares(from, to), 0));
}

function imbalanceOf(counts: readonly (readonly number[])[]): number {
  const layers = counts.filter(({ length }) => length > 0);
  return layers.reduce((most, rows) => Math.max(most, (Math.max(...rows) * rows.length) / rows.reduce((a, b) => a + b, 0)), 1);
}

/** Undefined when `stopped` said so: parameters are then those of the step before. */
export async function runStep(machine: Machine, step: number, stopped: () => boolean): Promise<StepReport | undefined> {
  const { settings, layout, optimizer, network, balancing } = machine;
  const total = await unlessStopped(gradients(machine, step, stopped));
  if (total === undefined) {
    network.dropGradients();
    balancing.takeLoss();
    return undefined;
  }
  const tokens = settings.sequences * settings.sequenceLength;
  const norm = normOf(machine);
  if (!Number.isFinite(norm))
    throw new AppError(`step ${step}: the norm of the gradients is not finite; lower --learning-rate and go on from a checkpoint`, {
      code: "NonFiniteLoss",
      operation: "training",
    });
  const rate = rateOf(settings.schedule, step);
  const clip = Math.min(1, settings.clip / (norm + 1e-6));
  const decaying = stepNumbers(settings.adamw, step, rate, clip);
  const plain = { ...decaying, decay: 0 };
  for (const { parameters } of unitsOf(layout))
    for (const { from, to, decays } of parameters) optimizer.step(from, to, decays ? decaying : plain);
  const counts = network.layers.map((layer) => layer.takeCounts());
  balancing.moveBiases(counts);
  return {
    step,
    loss: total / tokens,
    balanceLoss: balancing.takeLoss(),
    gradientNorm: norm,
    rate,
    tokens,
    imbalance: imbalanceOf(counts),
    expertRows: counts.flat().reduce((sum, rows) => sum + rows, 0),
  };
}

/** The mean loss of the first sequences of the validation data; undefined without any, and when `stopped` said so. */
export async function validationLoss(machine: Machine, stopped: () => boolean): Promise<number | undefined> {
  const { network, validation } = machine;
  if (validation === undefined) return undefined;
  const loss = await unlessStopped(lossOf(machine, validation, stopped));
  for (const layer of network.layers) layer.takeCounts();
  return loss;
}

async function lossOf({ settings, network }: Machine, validation: Corpus, stopped: () => boolean): Promise<number> {
  const count = Math.min(validationSequencesMax, validation.samples);
  const share = settings.sequences / settings.lanes;
  let total = 0;
  for (let first = 0; first < count; first += share) {
    const samples = Array.from({ length: Math.min(share, count - first) }, (_, i) => first + i);
    total += sumOf(await network.losses(await readLane(validation, samples), stopped));
  }
  return total / (count * settings.sequenceLength);
}
