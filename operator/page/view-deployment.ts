// The view of one deployment's page. Pure.
import type { Condition } from "../../crds/conditions.ts";
import type { MoEDeployment } from "../../crds/moe-deployment.ts";
import type { MoEDeploymentStatus } from "../../crds/moe-deployment-status.ts";
import type { PlacementView } from "../rebalance/status/placement-view.ts";
import { type DeploymentState, deploymentState, type PlacementState, placementState } from "../views/deployment.ts";
import { type RankState, rankStates } from "../views/ranks.ts";
import { type HeatView, heatView, type LayerLoad, layerLoads, leastEven } from "./heat.ts";
import type { PastDecision, PastMove, Series } from "./memory.ts";
import type { Source } from "./state.ts";

/** A larger world shows its busiest ranks. */
const ranksMax = 256;

export interface RankView extends RankState {
  readonly requests: number | undefined;
  readonly queuedTokens: number | undefined;
  readonly kvUsePercent: number | undefined;
}

export interface PlacementSection extends PlacementState {
  readonly underWay:
    | { readonly kind: string; readonly moves: number; readonly layers: readonly (readonly [phase: string, count: number])[] }
    | undefined;
}

export interface DeploymentView {
  readonly state: DeploymentState;
  readonly download: MoEDeploymentStatus["download"];
  readonly conditions: readonly Condition[];
  readonly history: NonNullable<MoEDeploymentStatus["history"]>;
  readonly placement: PlacementSection;
  readonly ranks: readonly RankView[];
  readonly ranksInAll: number;
  readonly layers: readonly LayerLoad[];
  /** The requested layer; undefined: the least even. */
  readonly chosen: number | undefined;
  readonly heat: HeatView | undefined;
  readonly decisions: readonly PastDecision[];
  readonly moves: readonly PastMove[];
  readonly series: Series | undefined;
}

export interface ViewRequest {
  readonly namespace: string;
  readonly name: string;
  readonly layer?: number | undefined;
}

/** Undefined without such a deployment; a text where it cannot be read. */
export function deploymentView(source: Source, { namespace, name, layer }: ViewRequest): DeploymentView | string | undefined {
  const read = source.deployments().find((one) => one.namespace === namespace && one.name === name);
  if (!read) return undefined;
  if (!read.parsed) return read.problem;
  const { status } = read.parsed;
  const placement = source.placement(read.uid);
  const remembered = source.remembered(read.uid);
  const layers = placement ? layerLoads(placement) : [];
  const drawn = layer ?? leastEven(layers);
  const ranks = placement ? ranksOf(placement) : [];
  return {
    state: deploymentState(read.parsed, placement?.status),
    download: status.download,
    conditions: status.conditions ?? [],
    history: status.history ?? [],
    placement: placementOf(read.parsed, placement),
    ranks: ranks.slice(0, ranksMax),
    ranksInAll: ranks.length,
    layers,
    chosen: layer,
    heat: placement && drawn !== undefined ? heatView(placement, drawn) : undefined,
    decisions: remembered?.decisions ?? [],
    moves: remembered?.moves ?? [],
    series: remembered?.series,
  };
}

function placementOf(deployment: MoEDeployment, placement: PlacementView | undefined): PlacementSection {
  const state = placementState(deployment, placement?.status);
  const { underWay } = placement ?? {};
  const byPhase = Map.groupBy(underWay?.phases.values() ?? [], (phase) => phase);
  return {
    ...state,
    epoch: placement?.plan?.epoch ?? state.epoch,
    underWay: underWay && {
      kind: underWay.kind,
      moves: underWay.moves,
      layers: [...byPhase].map(([phase, of]) => [phase, of.length] as const),
    },
  };
}

function ranksOf({ ranks, status }: PlacementView): readonly RankView[] {
  const live = ranks.map(({ rank, pod, node, state, activeRequests, queuedTokens, kv }) => {
    const kvUsePercent = kv && kv.blocks > 0 ? Math.round((100 * kv.used) / kv.blocks) : undefined;
    return { rank, pod, node, state, requests: activeRequests, queuedTokens, kvUsePercent };
  });
  const rows = rankStates(live, status?.ranks);
  return rows.length <= ranksMax ? rows : rows.toSorted((a, b) => (b.loadPercent ?? 0) - (a.loadPercent ?? 0));
}
