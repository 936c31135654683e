// The inputs and results of a rank's step.
import type { Stamp } from "../../net/collectives/transport.ts";
import type { Blocks } from "../../placement/training/blocks.ts";
import type { Rates } from "../../placement/training/rates.ts";
import type { LayerLoads } from "../../placement/training/spread.ts";
import type { MicroBatch, MicroBatchLoss } from "../passes/passes.ts";

export interface Batch {
  microBatch(microBatch: number): Promise<MicroBatch>;
  documents(microBatch: number): Promise<string>;
}

export interface StepEnd {
  readonly loss: number;
  /** The sum over recipes and layers; 0 without balance losses. */
  readonly balanceLoss: number;
  readonly gradientNorm: number;
  readonly rate: number;
  /** Per layer: rows of its experts, and in `blocks` who computed them in the first accumulation step. */
  readonly rows: readonly ArrayLike<number>[];
  readonly primaries: readonly (readonly number[])[];
  readonly hosts: readonly (readonly (readonly number[])[])[];
  readonly blocks: readonly Blocks[];
  /** Rows of ranks per layer, in the first accumulation step. */
  readonly loads: readonly (LayerLoads | undefined)[];
  readonly rates: Rates | undefined;
}

export interface Look {
  /** The last step made, which the model has. */
  readonly step: number;
  readonly groups: number;
  group(group: number): Promise<MicroBatch>;
  stopped(): boolean;
}

export interface StepPlan {
  readonly stamp: Stamp;
  readonly hosts: readonly (readonly (readonly number[])[])[];
  readonly microBatches: number;
  readonly atOnce: number;
  stopped(): boolean;
  /** Called when a layer's gradients are complete at their primaries. */
  complete?(layer: number): void;
}

export interface StepGradients {
  readonly losses: readonly MicroBatchLoss[];
  /** rows[layer][expert] of the whole step. */
  readonly rows: readonly Float64Array[];
  readonly first: Pick<StepEnd, "hosts" | "blocks" | "loads">;
}
