// A step of one layer's search. A view prices candidate steps by the decrease of the smooth maximum per expert replica and stores the
// best.

import { type HostChange, type LayerState, raise, root } from "../layer-state.ts";
import type { Arena, ExpertReplica } from "./arena.ts";
import type { Basin } from "./bounds.ts";

export type MoveKind = "add" | "relocate" | "replace" | "swap" | "drop" | "reconcile";

export interface Step {
  readonly kind: MoveKind;
  readonly layer: number;
  readonly changes: readonly HostChange[];
  readonly adds: readonly ExpertReplica[];
  readonly drops: readonly ExpertReplica[];
  /** The decrease of the smooth maximum, less the loss of an eviction in another layer. */
  readonly gain: number;
  /** Gain per unit of cost, by which steps of all layers compare. */
  readonly value: number;
  readonly evict?: Eviction;
}

export interface Eviction {
  readonly layer: number;
  readonly expertReplica: ExpertReplica;
  readonly loss: number;
}

export interface SearchWidth {
  readonly hot: number;
  readonly cold: number;
  readonly experts: number;
}

/** The cheapest replica of another layer that frees so many bytes on the rank. */
export type Evictions = (rank: number, bytes: number, layer: number) => Eviction | undefined;

/** A replica that may go, and the least level that the expert's other hosts then reach. */
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
  readonly basins: readonly Basin[];
  readonly redundant: readonly Redundant[];
  readonly uniformCost: boolean;
  value: number;
  step: Step | undefined;
}

/** A second replica on one node adds no safety, so its lower cost must not win. */
const sameNodePreference = 0.45;
export const least = 1e-9;

export interface Price {
  readonly total: number;
  readonly loss?: number;
  readonly cost: number;
  readonly weight?: number;
}

/** True if a step of this price beats the best one so far; it computes no root. */
export function beats(view: View, { total, loss = 0, cost, weight = 1 }: Price): boolean {
  const phi = view.before - loss - least - (view.value * cost) / weight;
  return phi > 0 && total < raise(phi);
}

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

/** The weight of a replica on `rank`; all are equal where the expert is on every node. */
export function spread(view: View, expert: number, rank: number): number {
  const { node, nodes } = view.arena.problem;
  const hosts = view.state.hosts[expert] as number[];
  let shared = false;
  for (let i = 0; i < hosts.length; i++) shared ||= node[hosts[i] as number] === node[rank];
  return shared && new Set(hosts.map((g) => node[g])).size < nodes ? sameNodePreference : 1;
}
