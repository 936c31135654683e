// The view of one deployment: how it stands, what is being done, ranks and their load against the bound, the map of a layer, decisions,
// moves and the last hour. Pure; sections-deployment.ts makes HTML of it.
import type { Condition } from "../../crds/conditions.ts";
import type { MoEDeployment } from "../../crds/moe-deployment.ts";
import type { MoEDeploymentStatus } from "../../crds/moe-deployment-status.ts";
import type { PlacementPicture } from "../rebalance/status/picture.ts";
import { deploymentVerdict, type Verdict } from "../views/health.ts";
import { type HeatView, heatView, type LayerLoad, layerLoads, leastEven } from "./heat.ts";
import type { PastDecision, PastMove, Series } from "./memory.ts";
import type { Source } from "./source.ts";

/** Ranks that the table shows, the busiest first where there are more. */
const ranksMax = 256;

export interface RankView {
  readonly rank: number;
  readonly pod: string;
  readonly node: string | undefined;
  readonly state: string;
  readonly loadPercent: number | undefined;
  readonly speedPercent: number | undefined;
  readonly hostedBytes: number | undefined;
  readonly budgetBytes: number | undefined;
  readonly requests: number | undefined;
  readonly queuedTokens: number | undefined;
  readonly kvUsePercent: number | undefined;
  readonly epoch: number | undefined;
}

export interface PlacementView {
  readonly epoch: number | undefined;
  readonly phase: string | undefined;
  readonly policy: string;
  readonly mode: string;
  readonly imbalancePercent: number | undefined;
  readonly boundPercent: number | undefined;
  readonly triggerPercent: number;
  readonly reason: string | undefined;
  readonly last: NonNullable<MoEDeploymentStatus["placement"]>["lastRebalance"];
  /** The plan that is being carried out. */
  readonly underWay:
    | { readonly kind: string; readonly moves: number; readonly layers: readonly (readonly [phase: string, count: number])[] }
    | undefined;
}

export interface DeploymentView {
  readonly namespace: string;
  readonly name: string;
  readonly verdict: Verdict;
  readonly model: { readonly uri: string; readonly words: string };
  readonly download: MoEDeploymentStatus["download"];
  readonly conditions: readonly Condition[];
  readonly operation: MoEDeploymentStatus["operation"];
  readonly rollout: MoEDeploymentStatus["rollout"];
  readonly replicas: number;
  readonly history: NonNullable<MoEDeploymentStatus["history"]>;
  readonly placement: PlacementView;
  readonly ranks: readonly RankView[];
  readonly ranksInAll: number;
  readonly layers: readonly LayerLoad[];
  /** The layer that was asked for; undefined: whichever is least even. */
  readonly chosen: number | undefined;
  readonly heat: HeatView | undefined;
  readonly decisions: readonly PastDecision[];
  readonly moves: readonly PastMove[];
  readonly series: Series | undefined;
}

export interface Asked {
  readonly namespace: string;
  readonly name: string;
  readonly layer?: number | undefined;
}

/** Undefined where there is no such deployment; the problem where it cannot be read. */
export function deploymentView(source: Source, { namespace, name, layer }: Asked): DeploymentView | string | undefined {
  const read = source.deployments().find((one) => one.namespace === namespace && one.name === name);
  if (!read) return undefined;
  if (!read.parsed) return read.problem;
  const { spec, status } = read.parsed;
  const picture = source.picture(read.uid);
  const remembered = source.remembered(read.uid);
  const layers = picture ? layerLoads(picture) : [];
  const drawn = layer ?? leastEven(layers);
  const ranks = picture ? ranksOf(picture) : [];
  return {
    namespace,
    name,
    verdict: deploymentVerdict(status.conditions, status.operation?.type),
    model: { uri: spec.model.uri, words: modelWords(read.parsed) },
    download: status.download,
    conditions: status.conditions ?? [],
    operation: status.operation,
    rollout: status.rollout,
    replicas: spec.replicas,
    history: status.history ?? [],
    placement: placementOf(read.parsed, picture),
    ranks: ranks.slice(0, ranksMax),
    ranksInAll: ranks.length,
    layers,
    chosen: layer,
    heat: picture && drawn !== undefined ? heatView(picture, drawn) : undefined,
    decisions: remembered?.decisions ?? [],
    moves: remembered?.moves ?? [],
    series: remembered?.series,
  };
}

function modelWords({ spec, status: { model } }: MoEDeployment): string {
  if (!model) return "not opened yet";
  const { architecture, layers, expertsPerLayer, topK } = model;
  return `${architecture ?? "?"}, ${layers ?? "?"} layers x ${expertsPerLayer ?? "?"} experts, top-${topK ?? "?"}, ${spec.runtime.expertCodec}`;
}

function placementOf({ spec, status }: MoEDeployment, picture: PlacementPicture | undefined): PlacementView {
  const { policy, mode, trigger } = spec.rebalancing;
  const { placement } = status;
  const { underWay } = picture ?? {};
  const byPhase = Map.groupBy(underWay?.phases.values() ?? [], (phase) => phase);
  return {
    epoch: picture?.plan?.epoch ?? placement?.epoch,
    phase: picture?.status?.phase ?? placement?.phase,
    policy,
    mode,
    imbalancePercent: placement?.imbalancePercent,
    boundPercent: placement?.boundPercent,
    triggerPercent: trigger.imbalancePercent,
    reason: picture?.status?.reason,
    last: placement?.lastRebalance,
    underWay: underWay && {
      kind: underWay.kind,
      moves: underWay.moves,
      layers: [...byPhase].map(([phase, of]) => [phase, of.length] as const),
    },
  };
}

function ranksOf({ ranks, status }: PlacementPicture): readonly RankView[] {
  const told = new Map(status?.ranks?.map((one) => [one.rank, one]));
  const rows = ranks.map(({ rank, pod, node, state, activeRequests, queuedTokens, kv }): RankView => {
    const { loadPercent, speedPercent, hostedBytes, budgetBytes, epoch } = told.get(rank) ?? {};
    return {
      rank,
      pod,
      node,
      state,
      loadPercent,
      speedPercent,
      hostedBytes,
      budgetBytes,
      requests: activeRequests,
      queuedTokens,
      kvUsePercent: kv && kv.blocks > 0 ? Math.round((100 * kv.used) / kv.blocks) : undefined,
      epoch,
    };
  });
  return rows.length <= ranksMax ? rows : rows.sort((a, b) => (b.loadPercent ?? 0) - (a.loadPercent ?? 0));
}
