// What a rank's step takes, gives, and has in between. Interface only.
import type { Stamp } from "../../net/collectives/transport.ts";
import type { Blocks } from "../../placement/training/blocks.ts";
import type { Rates } from "../../placement/training/rates.ts";
import type { LayerLoads } from "../../placement/training/spread.ts";
import type { MicroBatch, MicroBatchLoss } from "../passes/passes.ts";

/** The batch of a step. */
export interface Batch {
  microBatch(microBatch: number): Promise<MicroBatch>;
  /** The documents that a micro-batch is of, for people. */
  documents(microBatch: number): Promise<string>;
}

export interface StepEnd {
  /** Mean of the losses of all tokens. */
  readonly loss: number;
  /** Of all recipes and layers, beside the other; 0 where no recipe has a loss. */
  readonly balanceLoss: number;
  readonly gradientNorm: number;
  readonly rate: number;
  /** Of each layer: rows that its experts had, where they live, and who had them in the step's first accumulation step. */
  readonly rows: readonly ArrayLike<number>[];
  readonly primaries: readonly (readonly number[])[];
  readonly hosts: readonly (readonly (readonly number[])[])[];
  /** Of each layer, who computed its experts' rows in the first accumulation step. */
  readonly blocks: readonly Blocks[];
  /** Of each layer, rows of ranks in the first accumulation step. */
  readonly loads: readonly (LayerLoads | undefined)[];
  /** What planners reckon with from now on, if it was measured. */
  readonly rates: Rates | undefined;
}

/** A pass over data without gradients. */
export interface Look {
  /** Of which the model is: the last one that was made. */
  readonly step: number;
  /** Groups of sequences, dealt to ranks as micro-batches are. */
  readonly groups: number;
  group(group: number): Promise<MicroBatch>;
  stopped(): boolean;
}

/** What accumulation steps of one step, or of a look at other data, share. */
export interface StepPlan {
  readonly stamp: Stamp;
  readonly hosts: readonly (readonly (readonly number[])[])[];
  readonly microBatches: number;
  /** Micro-batches of an accumulation step. */
  readonly atOnce: number;
  stopped(): boolean;
  /** A layer's gradients are complete at their primaries. */
  complete?(layer: number): void;
}

/** Sums over all micro-batches, and where the rows of the first accumulation step were. */
export interface StepGradients {
  readonly losses: readonly MicroBatchLoss[];
  /** rows[layer][expert] of the whole step. */
  readonly rows: readonly Float64Array[];
  readonly first: Pick<StepEnd, "hosts" | "blocks" | "loads">;
}
