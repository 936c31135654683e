// One step of training as a run makes it: the batch that its number gives, and what is told of it; and the loss on other data. A step that
// is given up leaves no trace.
import { type LayerCopies, shareQuantiles } from "../../../crds/training-report.ts";
import { type Spread, sharesAt, spreadOf } from "../../placement/training/spread.ts";
import { readMicroBatch, samplesOf } from "../data/batch.ts";
import type { Corpus } from "../data/corpus.ts";
import type { Rank } from "../ranks/rank.ts";
import { copiesOf } from "../ranks/replica-report.ts";
import type { TrainSettings } from "./train-settings.ts";

/** Sequences of validation data that the loss is taken of, at most. */
const validationSequencesMax = 256;

export interface Machine {
  readonly settings: TrainSettings;
  readonly rank: Rank;
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

/** Places among a layer's experts whose shares of rows are told. */
const sharePlaces = shareQuantiles.map(Number);

/** How a step lay on ranks: another number of them is told otherwise, so that none of it is in the run's metrics. */
export interface RanksReport extends Spread {
  readonly step: number;
  /** Of the layer whose busiest expert has most. */
  readonly expertShares: readonly number[];
  /** Who had copies of experts. */
  readonly copies: readonly LayerCopies[];
}

/** A step that is made. */
interface StepMade {
  readonly report: StepReport;
  readonly ranks: RanksReport;
}

const sumOf = (rows: ArrayLike<number>): number => Array.from(rows).reduce((sum, count) => sum + count, 0);

function imbalanceOf(counts: readonly ArrayLike<number>[]): number {
  const layers = counts.map((rows) => Array.from(rows)).filter(({ length }) => length > 0);
  return layers.reduce((most, rows) => Math.max(most, (Math.max(...rows) * rows.length) / Math.max(1, sumOf(rows))), 1);
}

/** Undefined when the run is to stop: parameters are then those of the step before. */
export async function runStep({ settings, rank, corpus }: Machine, step: number, stopped: () => boolean): Promise<StepMade | undefined> {
  const samples = (microBatch: number): readonly number[] => samplesOf(settings, corpus.samples, step, microBatch);
  const documents = async (microBatch: number): Promise<string> => {
    const found: string[] = [];
    for (const sample of samples(microBatch)) found.push((await corpus.documentsOf(sample)).join("-"));
    return found.join(", ");
  };
  const end = await rank.step(step, { microBatch: (microBatch) => readMicroBatch(corpus, samples(microBatch)), documents }, stopped);
  if (end === undefined) return undefined;
  const { loss, balanceLoss, gradientNorm, rate, rows, loads, hosts } = end;
  const tokens = settings.sequences * settings.sequenceLength;
  const report: StepReport = {
    step,
    loss,
    balanceLoss,
    gradientNorm,
    rate,
    tokens,
    imbalance: imbalanceOf(rows),
    expertRows: rows.map(sumOf).reduce((sum, count) => sum + count, 0),
  };
  const ranks = Object.assign({ step, expertShares: sharesAt(rows, sharePlaces), copies: copiesOf(hosts) }, spreadOf(loads, hosts));
  return { report, ranks };
}

/** The mean loss of the first sequences of the validation data; undefined without any, and when the run is to stop. */
export async function validationLoss(machine: Machine, step: number, stopped: () => boolean): Promise<number | undefined> {
  const { settings, rank, validation } = machine;
  if (validation === undefined) return undefined;
  const count = Math.min(validationSequencesMax, validation.samples);
  const share = settings.sequences / settings.microBatches;
  const samples = (group: number): readonly number[] =>
    Array.from({ length: Math.min(share, count - group * share) }, (_, i) => group * share + i);
  const groups = Math.ceil(count / share);
  const sums = await rank.losses({ step, groups, group: (group) => readMicroBatch(validation, samples(group)), stopped });
  if (sums === undefined) return undefined;
  return sums.reduce((total, sum) => total + sum, 0) / (count * settings.sequenceLength);
}
