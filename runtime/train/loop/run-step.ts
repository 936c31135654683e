// One step of a run: the batch of its number, the computing, and its report; and the validation loss. An abandoned step leaves no
// trace.
import { copiesMax, type LayerCopies, shareQuantiles } from "../../../crds/training-report.ts";
import { type Spread, sharesAt, spreadOf } from "../../placement/training/spread.ts";
import { readMicroBatch, samplesOf } from "../data/batch.ts";
import type { Corpus } from "../data/corpus.ts";
import type { Rank } from "../ranks/rank.ts";
import type { TrainSettings } from "./train-settings.ts";

const validationSequencesMax = 256;

export interface Machine {
  readonly settings: TrainSettings;
  readonly rank: Rank;
  readonly corpus: Corpus;
  readonly validation: Corpus | undefined;
}

export interface StepReport {
  readonly step: number;
  readonly loss: number;
  /** The sum over recipes and layers; 0 without balance losses. */
  readonly balanceLoss: number;
  readonly gradientNorm: number;
  readonly rate: number;
  readonly tokens: number;
  /** Rows of the busiest expert over the mean, in the worst layer; 1 without experts. */
  readonly imbalance: number;
  readonly expertRows: number;
}

const sharePlaces = shareQuantiles.map(Number);

/** The placement of a step. It is not in the run's metrics, since it depends on the number of ranks. */
export interface RanksReport extends Spread {
  readonly step: number;
  readonly expertShares: readonly number[];
  readonly copies: readonly LayerCopies[];
}

interface StepMade {
  readonly report: StepReport;
  readonly ranks: RanksReport;
}

const sumOf = (rows: ArrayLike<number>): number => Array.from(rows).reduce((sum, count) => sum + count, 0);

function imbalanceOf(counts: readonly ArrayLike<number>[]): number {
  const layers = counts.map((rows) => Array.from(rows)).filter(({ length }) => length > 0);
  return layers.reduce((most, rows) => Math.max(most, (Math.max(...rows) * rows.length) / Math.max(1, sumOf(rows))), 1);
}

/** Undefined when the run is to stop; parameters are then those of the step before. */
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

/** The mean validation loss; undefined without validation data, and when the run is to stop. */
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

/** hosts[layer][expert], primary first; layers without replicas are left out. */
export function copiesOf(hosts: readonly (readonly (readonly number[])[])[]): LayerCopies[] {
  const layers = hosts.map(copiesIn).filter(({ copied }) => copied > 0);
  return layers.slice(0, copiesMax.layers);
}

function copiesIn(hosts: readonly (readonly number[])[], layer: number): LayerCopies {
  const copied = [...hosts.entries()].filter(([, ranks]) => ranks.length > 1);
  const most = copied
    .toSorted(([, a], [, b]) => b.length - a.length)
    .slice(0, copiesMax.experts)
    .toSorted(([a], [b]) => a - b);
  return {
    layer,
    experts: hosts.length,
    copied: copied.length,
    most: most.map(([expert, ranks]) => ({ expert, ranks: ranks.slice(0, copiesMax.ranks) })),
  };
}
