// The map of one layer for the page's script, and how even each layer is. Pure.
import { encodeLayer, type LayerPlacement } from "../../crds/plan.ts";
import { imbalance, relativeLoad } from "../../runtime/placement/imbalance.ts";
import { loadByWeights } from "../../runtime/placement/split.ts";
import type { PlacementView } from "../rebalance/status/placement-view.ts";

export interface HeatView {
  readonly layer: number;
  /** The epoch of the layer's last change. */
  readonly epoch: number;
  /** Ranks before or after the plan; ascending. */
  readonly ranks: readonly number[];
  /** The role of each of `ranks`, empty where unknown; undefined without roles. */
  readonly roles?: readonly string[];
  /** As ExpertPlacement has them. */
  readonly hosts: string;
  readonly weights: string;
  /** Rows per expert in percent of a rank's mean; undefined without load. */
  readonly expertPercent: readonly number[] | undefined;
  /** Load of each of `ranks` in percent of the mean, weighted by speed. */
  readonly rankPercent: readonly number[] | undefined;
  /** The layer after the current plan; undefined where it does not change. */
  readonly next: { readonly hosts: string; readonly weights: string; readonly phase: string } | undefined;
}

export interface LayerLoad {
  readonly layer: number;
  readonly imbalancePercent: number | undefined;
  /** The plan's phase for this layer. */
  readonly phase: string | undefined;
}

/** Relative speed by rank; 1 where unknown. */
function speedsOf({ status, ranks }: PlacementView, size: number): Float64Array {
  const speeds = new Float64Array(size);
  for (const { rank } of ranks) if (rank < size) speeds[rank] = 1;
  for (const { rank, speedPercent } of status?.ranks ?? [])
    if (rank < size && speedPercent !== undefined) speeds[rank] = speedPercent / 100;
  return speeds;
}

function demandOf({ expected, experts }: PlacementView, index: number): Float64Array | undefined {
  const demand = expected?.subarray(index * experts, (index + 1) * experts);
  return demand?.some((rows) => rows > 0) ? demand : undefined;
}

const ranksOf = ({ hosts }: LayerPlacement): readonly number[] => [...new Set(hosts.flat())];

function sizeOf({ ranks, plan }: PlacementView): number {
  let highest = -1;
  for (const { rank } of ranks) highest = Math.max(highest, rank);
  for (const layer of plan?.layers ?? []) for (const rank of ranksOf(layer)) highest = Math.max(highest, rank);
  return highest + 1;
}

export function layerLoads(placement: PlacementView): readonly LayerLoad[] {
  const size = sizeOf(placement);
  const speeds = speedsOf(placement, size);
  return (placement.plan?.layers ?? []).map((layer, index) => {
    const demand = demandOf(placement, index);
    const uneven = demand && imbalance(loadByWeights(demand, layer.hosts, layer.weights, size), speeds);
    const phase = placement.underWay?.phases.get(layer.layer);
    return { layer: layer.layer, imbalancePercent: uneven === undefined ? undefined : Math.round(uneven * 100), phase };
  });
}

export function leastEven(loads: readonly LayerLoad[]): number | undefined {
  const [first, ...others] = loads;
  return others.reduce((worst, each) => ((each.imbalancePercent ?? 0) > (worst?.imbalancePercent ?? 0) ? each : worst), first)?.layer;
}

/** Undefined where the plan has no such layer. */
export function heatView(placement: PlacementView, layer: number): HeatView | undefined {
  const index = placement.plan?.layers.findIndex((one) => one.layer === layer) ?? -1;
  const now = placement.plan?.layers[index];
  if (!now) return undefined;
  const phase = placement.underWay?.phases.get(layer);
  const next = phase === undefined ? undefined : placement.underWay?.plan.layers.find((one) => one.layer === layer);
  const ranks = [...new Set([...placement.ranks.map(({ rank }) => rank), ...ranksOf(now), ...(next ? ranksOf(next) : [])])].sort(
    (a, b) => a - b,
  );
  return {
    layer,
    epoch: now.epoch,
    ranks,
    ...rolesOn(placement, ranks),
    ...encodeLayer(now),
    ...loadsOf(placement, { now, index, ranks }),
    next: next && phase !== undefined ? { hosts: encodeLayer(next).hosts, weights: encodeLayer(next).weights, phase } : undefined,
  };
}

function rolesOn({ status }: PlacementView, ranks: readonly number[]): Pick<HeatView, "roles"> {
  const known = new Map((status?.ranks ?? []).flatMap(({ rank, role }) => (role === undefined ? [] : [[rank, role] as const])));
  return known.size === 0 ? {} : { roles: ranks.map((rank) => known.get(rank) ?? "") };
}

interface Placed {
  readonly now: LayerPlacement;
  readonly index: number;
  readonly ranks: readonly number[];
}

function loadsOf(placement: PlacementView, { now, index, ranks }: Placed): Pick<HeatView, "expertPercent" | "rankPercent"> {
  const demand = demandOf(placement, index);
  if (!demand) return { expertPercent: undefined, rankPercent: undefined };
  const size = Math.max(sizeOf(placement), 1 + (ranks.at(-1) ?? -1));
  const speeds = speedsOf(placement, size);
  const counted = Math.max(
    1,
    speeds.reduce((n, speed) => n + (speed > 0 ? 1 : 0), 0),
  );
  const mean = demand.reduce((a, b) => a + b, 0) / counted;
  const relative = relativeLoad(loadByWeights(demand, now.hosts, now.weights, size), speeds);
  return {
    expertPercent: now.hosts.map((_, expert) => Math.round((100 * (demand[expert] ?? 0)) / mean)),
    rankPercent: ranks.map((rank) => Math.round(100 * (relative[rank] ?? 0))),
  };
}
