// The interface of a placement policy. There is one file per policy in policies/, chosen by spec.rebalancing.policy; policies are pure
// and total.

import type { LayerPlan } from "../../crds/plan.ts";
import type { ExpertGrid } from "../../runtime/placement/grid.ts";

type RankState = "active" | "draining" | "dead";

export interface RankSpec {
  readonly rank: number;
  /** Relative expert rows per second; 1 for all when unmeasured. */
  readonly speed: number;
  /** Resident bytes for experts, one staging slot included; of experts that it may serve where `memoryBytes` is set (served.ts). */
  readonly budgetBytes: number;
  /** Its memory for experts, where it may serve more than that. */
  readonly memoryBytes?: number;
  /** It was started to hold all that it serves. */
  readonly holdsAll?: boolean;
  readonly zone: string;
  readonly rack?: string | undefined;
  readonly node: string;
  readonly state: RankState;
}

/** Arrays are [layers * experts], zero where a layer has no such expert; an expert may have zero bytes too. */
export interface ModelShape extends ExpertGrid {
  readonly residentBytes: Float64Array;
  readonly storedBytes: Float64Array;
}

/** The limits of one plan; Infinity for none. */
export interface MoveBudget {
  readonly maxMoves: number;
  readonly maxMovesPerRank: number;
  readonly maxBytes: number;
}

export const unlimited: MoveBudget = { maxMoves: Infinity, maxMovesPerRank: Infinity, maxBytes: Infinity };

export function isUnlimited(budget: MoveBudget): boolean {
  return budget.maxMoves === Infinity && budget.maxMovesPerRank === Infinity && budget.maxBytes === Infinity;
}

/** Expert replicas that recent plans made or dropped, by `expertReplicaKey`; policies with dwell do not undo them at once. */
interface RecentMoves {
  readonly added: ReadonlySet<number>;
  readonly dropped: ReadonlySet<number>;
}

export const efforts = ["fast", "quality"] as const;
type Effort = (typeof efforts)[number];

/** The measured times of a window, per layer, means of ranks. */
export interface Timing {
  /** Seconds in which a rank computes everything but experts. */
  readonly denseSeconds: number;
  /** Seconds that its steps wait for experts, local and remote, under the current placement. */
  readonly expertSeconds: number;
  /** Bytes per second that a receiver gets from another rank on the slowest path. */
  readonly bytesPerSecond: number;
  /** Windows that a plan is expected to hold. */
  readonly windows: number;
}

export interface Near {
  /** Selections by each rank's own tokens, [layers * experts], by rank; only their ratios count. */
  readonly sources: ReadonlyMap<number, Float32Array>;
  /** A max/mean up to which a layer may become less even. */
  readonly evenTo: number;
}

export interface PlanInput {
  readonly shape: ModelShape;
  readonly ranks: readonly RankSpec[];
  /** Forecast selections per window, [layers * experts]. */
  readonly load: Float64Array;
  /** Set for a plan that keeps rows at their rank, and for no other. */
  readonly near?: Near;
  /**
   * The part of the load, 0 to 1, expected to miss the forecast. Set only where weights follow the load between plans; with fixed
   * weights, planning for it costs balance.
   */
  readonly unrest?: number;
  /** The committed placement; it hosts every expert, on ranks that are not dead. */
  readonly current: readonly LayerPlan[] | undefined;
  readonly budget: MoveBudget;
  /** The replicas that every expert must have, as far as ranks and bytes allow. */
  readonly minExpertReplicas: number;
  readonly split: "weighted" | "equal";
  readonly effort: Effort;
  /** Caps experts per (layer, rank); unset: only bytes count. */
  readonly slotsPerRank?: number;
  /** The least decrease of max/mean per expert replica that is worth it; unset: by effort. */
  readonly gainPerMove?: number;
  /** Noise of each layer's max/mean, [layers]; gains below it are ignored. */
  readonly noise?: Float64Array;
  readonly recent?: RecentMoves;
  readonly timing?: Timing;
  /** Windows since primaries were last sharded anew; unset: not since planning began, or ranks or the load changed. */
  readonly windowsSinceReshard?: number;
  readonly seed?: number;
  /** The cost factor of this move, above 0, by path; 1 within a zone or rack. Unset: all alike. */
  readonly moveCost?: (layer: number, expert: number, rank: number, sources: readonly number[]) => number;
}

export interface PlanOutput {
  readonly layers: readonly LayerPlan[];
  readonly reason: string;
  /** Set when primaries were to be sharded anew; true when budget or memory left some for the next plan. */
  readonly resharding?: boolean;
  /** The part of all rows that stay at their rank by a plan for them. */
  readonly kept?: number;
}

export interface PlacementPolicy {
  readonly name: string;
  readonly summary: string;
  /** The policy starts from the current plan, so that a small change of load gives a small change of plan. */
  readonly keepsCurrent: boolean;
  /** Set where replicas near tokens may be added between its plans, since it leaves what is even alone. */
  readonly keepsNear?: boolean;
  /** The largest layers * experts * ranks that ends in reasonable time. */
  readonly cellsMax: number;
  plan(input: PlanInput): PlanOutput | Promise<PlanOutput>;
}

/** A number for (layer, expert, rank), unique within a model. */
export function expertReplicaKey(input: Pick<PlanInput, "shape">, layer: number, expert: number, rank: number): number {
  return (rank * input.shape.layers + layer) * input.shape.experts + expert;
}
