// A step of one layer's search, and the view that candidates of a hot rank are offered to: it prices them by the decrease of the
// smooth maximum per expert replica made and keeps the best. Pure.

import { type HostChange, type LayerState, raise, root } from "../layer-state.ts";
import type { Arena, ExpertReplica } from "./arena.ts";
import type { Basin } from "./bounds.ts";

export type MoveKind = "add" | "relocate" | "replace" | "swap" | "chain" | "drop" | "reconcile";

export interface Step {
  readonly kind: MoveKind;
  readonly layer: number;
  readonly changes: readonly HostChange[];
  readonly adds: readonly ExpertReplica[];
  readonly drops: readonly ExpertReplica[];
  /** Decrease of the smooth maximum, less what an eviction in another layer costs. */
  readonly gain: number;
  /** Gain per unit of cost: what steps of all layers are compared by. */
  readonly value: number;
  /** An expert replica of another layer that must go first to make room. */
  readonly evict?: Eviction;
}

/** An expert replica of another layer and what its layer loses with it. */
export interface Eviction {
  readonly layer: number;
  readonly expertReplica: ExpertReplica;
  readonly loss: number;
}

export interface SearchWidth {
  /** Hottest ranks tried until one has a step. */
  readonly hot: number;
  /** Coldest ranks that may take something. */
  readonly cold: number;
  /** Experts of a hot rank that may go, by rows. */
  readonly experts: number;
  readonly chains: boolean;
}

/** The cheapest expert replica of a layer other than this one that frees so many bytes on the rank. */
export type Evictions = (rank: number, bytes: number, layer: number) => Eviction | undefined;

/** An expert replica that may go, and the level that its expert's other hosts then reach at least. */
export interface Redundant extends ExpertReplica {
  readonly spill: number;
}

export interface View {
  readonly state: LayerState;
  readonly arena: Arena;
  readonly before: number;
  readonly hot: number;
  readonly cold: readonly number[];
  readonly experts: readonly number[];
  /** The hosts together of each of `experts`. */
  readonly basins: readonly Basin[];
  readonly redundant: readonly Redundant[];
  readonly uniformCost: boolean;
  value: number;
  step: Step | undefined;
}

/** A second replica on one node adds no safety, though its expert replica is cheap: it must not win over one on another node by that. */
const sameNodePreference = 0.45;
export const least = 1e-9;

/** The gain and the cost of a step. */
export interface Price {
  /** The layer's total afterwards. */
  readonly total: number;
  /** The loss of another layer by it; 0 where it is not given. */
  readonly loss?: number;
  readonly cost: number;
  /** The weight of its gain; 1 where it is not given. */
  readonly weight?: number;
}

/** Would a step of this price beat the best one so far? Costs no root. */
export function beats(view: View, { total, loss = 0, cost, weight = 1 }: Price): boolean {
  const phi = view.before - loss - least - (view.value * cost) / weight;
  return phi > 0 && total < raise(phi);
}

/** The level that the worst rank must stay below for a step of so many expert replicas, or more, to beat the best one so far. */
export function ceilingOf(view: View, expertReplicas: number): number {
  return view.before - least - (view.uniformCost ? view.value * expertReplicas : 0);
}

export function offer(view: View, price: Price, make: () => Omit<Step, "gain" | "value" | "layer">): void {
  if (!beats(view, price)) return;
  const { total, loss = 0, cost, weight = 1 } = price;
  const made = make();
  if (!view.arena.keepsFloor(view.state, made.changes)) return;
  const gain = view.before - root(total) - loss;
  view.value = (gain * weight) / cost;
  view.step = { layer: view.state.layer, gain, value: view.value, ...made };
}

export function expertReplicaCost(view: View, expert: number, rank: number): number {
  const { moveCost } = view.arena.problem.input;
  if (view.uniformCost || !moveCost) return 1;
  const { ranks } = view.arena.problem;
  const sources = (view.state.hosts[expert] as number[]).map((g) => ranks[g]?.rank ?? g);
  return Math.max(least, moveCost(view.state.layer, expert, ranks[rank]?.rank ?? rank, sources));
}

/** Weight of an expert replica on `rank`; where the expert is on every node already, all are alike. */
export function spread(view: View, expert: number, rank: number): number {
  const { node, nodes } = view.arena.problem;
  const hosts = view.state.hosts[expert] as number[];
  let shared = false;
  for (let i = 0; i < hosts.length; i++) shared ||= node[hosts[i] as number] === node[rank];
  return shared && new Set(hosts.map((g) => node[g])).size < nodes ? sameNodePreference : 1;
}
