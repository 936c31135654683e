// The contract of a placement policy: the input that it is given and the plan that it must return. One file per policy in
// policies/, chosen by spec.rebalancing.policy. Policies are pure and total: same input, same plan; bad input was refused before.

import type { LayerPlan } from "../../crds/plan.ts";
import type { ExpertGrid } from "../../runtime/placement/grid.ts";

type RankState = "active" | "draining" | "dead";

export interface RankSpec {
  readonly rank: number;
  /** Relative expert rows per second; 1 for all when nothing was measured. */
  readonly speed: number;
  /** Resident bytes for experts, one staging slot included. */
  readonly budgetBytes: number;
  readonly zone: string;
  /** The value of the node label that spec.scheduling.topology names; unset where there is none. */
  readonly rack?: string | undefined;
  readonly node: string;
  readonly state: RankState;
}

/** Sizes of the model. Arrays are [layers * experts], zero where a layer has no such expert; an expert may have zero bytes too. */
export interface ModelShape extends ExpertGrid {
  readonly residentBytes: Float64Array;
  readonly storedBytes: Float64Array;
}

/** Limits of one plan. Infinity where there is none. */
export interface MoveBudget {
  readonly maxMoves: number;
  /** Expert replicas that one rank may newly take. */
  readonly maxMovesPerRank: number;
  readonly maxBytes: number;
}

/** No limit at all: for repair, drain, fill, and plans of traces without --budget-expert-replicas. */
export const unlimited: MoveBudget = { maxMoves: Infinity, maxMovesPerRank: Infinity, maxBytes: Infinity };

/** True when a plan may change anything at once. */
export function isUnlimited(budget: MoveBudget): boolean {
  return budget.maxMoves === Infinity && budget.maxMovesPerRank === Infinity && budget.maxBytes === Infinity;
}

/** Expert replicas that recent plans made or dropped, keyed by `expertReplicaKey`: a policy with dwell does not take them back at once. */
interface RecentMoves {
  readonly added: ReadonlySet<number>;
  readonly dropped: ReadonlySet<number>;
}

export const efforts = ["fast", "quality"] as const;
type Effort = (typeof efforts)[number];

/** The measured times of a window, per layer, for policies that hide transfers behind other work. Means of ranks. */
export interface Timing {
  /** Seconds in which a rank computes what is not experts. */
  readonly denseSeconds: number;
  /** Seconds that its steps wait for experts, here and elsewhere, under the current placement. */
  readonly expertSeconds: number;
  /** Bytes per second that a receiver gets from another rank, by the slowest path between ranks. */
  readonly bytesPerSecond: number;
  /** Windows that a plan is expected to hold. */
  readonly windows: number;
}

export interface PlanInput {
  readonly shape: ModelShape;
  readonly ranks: readonly RankSpec[];
  /** Forecast selections per window, [layers * experts]. */
  readonly load: Float64Array;
  /**
   * Part of the load, 0 to 1, that will by experience come to other experts than forecast. Given only where weights are found
   * anew as the load changes; with weights that hold until the next plan, planning for it costs balance.
   */
  readonly unrest?: number;
  /** The committed placement; hosts only ranks that are not dead, every expert at least once. */
  readonly current: readonly LayerPlan[] | undefined;
  readonly budget: MoveBudget;
  /** Hosts that every expert must have, as far as there are ranks and bytes. */
  readonly minExpertReplicas: number;
  readonly split: "weighted" | "equal";
  readonly effort: Effort;
  /** Caps experts per (layer, rank). Unset: only bytes count, so that layers may differ. */
  readonly slotsPerRank?: number;
  /** Least decrease of max/mean per expert replica that is worth it; unset = by effort. */
  readonly gainPerMove?: number;
  /** Noise of each layer's max/mean, [layers]; gains below it are not pursued. */
  readonly noise?: Float64Array;
  readonly recent?: RecentMoves;
  readonly timing?: Timing;
  /** Windows since primaries were last sharded anew; unset: not since planning began, ranks changed or the load did. */
  readonly windowsSinceReshard?: number;
  readonly seed?: number;
  /** Cost factor of one expert replica of this move, above 0, by path between source and receiver; 1 within a zone or rack. Unset: all alike. */
  readonly moveCost?: (layer: number, expert: number, rank: number, sources: readonly number[]) => number;
}

export interface PlanOutput {
  readonly layers: readonly LayerPlan[];
  /** One sentence with numbers: why this plan. */
  readonly reason: string;
  /** Set when primaries were to be sharded anew in this plan; true when budget or memory left some of that for the next one. */
  readonly resharding?: boolean;
}

export interface PlacementPolicy {
  readonly name: string;
  readonly summary: string;
  /** Starts from the current plan, so that a small change of load gives a small change of plan. */
  readonly keepsCurrent: boolean;
  /** Largest layers * experts * ranks that ends in reasonable time; Infinity for any. */
  readonly cellsMax: number;
  plan(input: PlanInput): PlanOutput | Promise<PlanOutput>;
}

/** One number for an expert replica (layer, expert, rank), unique within a model: the key of RecentMoves. */
export function expertReplicaKey(input: Pick<PlanInput, "shape">, layer: number, expert: number, rank: number): number {
  return (rank * input.shape.layers + layer) * input.shape.experts + expert;
}
