// The ordered loads of this rank for a plan, with their sources.
import type { LayerPlacement, LayerPlan } from "../../crds/plan.ts";
import { diffPlans } from "../placement/diff.ts";
import { receiveSchedule } from "../placement/receive.ts";

export interface PlannedLoad {
  readonly layer: number;
  readonly expert: number;
  /** The scheduled one first; the store comes last. */
  readonly sources: readonly number[];
}

export interface LoadsOptions {
  readonly rank: number;
  readonly layers: readonly LayerPlacement[];
  /** The committed placement; undefined before the first. */
  readonly parent: (layer: number) => LayerPlan | undefined;
  /** Every other rank that may hold the expert. */
  readonly sources: (layer: number, expert: number) => readonly number[];
}

const nothing: LayerPlan = { hosts: [], weights: [] };

/** Experts of the parent placement come first: they are resident, or awaited. */
export function plannedLoads({ rank, layers, parent, sources }: LoadsOptions): PlannedLoad[] {
  const parents = layers.map(({ layer }) => parent(layer) ?? nothing);
  const { moves } = diffPlans(parents, layers, () => 0);
  const fetches = receiveSchedule(moves.map((move) => ({ ...move, layer: layers[move.layer]?.layer ?? move.layer })));
  const own = new Map(fetches.filter((fetch) => fetch.rank === rank).map((fetch) => [`${fetch.layer}.${fetch.expert}`, fetch]));
  return layers
    .flatMap(({ layer, hosts }) => hosts.flatMap((row, expert) => (row.includes(rank) ? [{ layer, expert }] : [])))
    .map(({ layer, expert }) => {
      const fetch = own.get(`${layer}.${expert}`);
      const others = sources(layer, expert).filter((source) => source !== fetch?.source);
      const first = fetch?.source === undefined ? [] : [fetch.source];
      return { layer, expert, sources: [...first, ...others], round: fetch?.round ?? -1 };
    })
    .sort((a, b) => a.round - b.round)
    .map(({ round: _, ...load }) => load);
}
