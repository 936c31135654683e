// One deployment's placement for viewers such as the operator's page: plans, ranks and expected load. It is computed on demand.
import type { ExpertPlacementStatus } from "../../../crds/expert-placement.ts";
import type { PlacementPlan } from "../../../crds/plan.ts";
import { currentByRank } from "../members.ts";
import type { Observed, RankView } from "../observed.ts";
import type { RankTotals } from "../ports.ts";
import type { LayerPhase } from "../rollout/protocol-types.ts";

export interface RankLoad {
  readonly rank: number;
  readonly pod: string;
  readonly node: string | undefined;
  readonly zone: string | undefined;
  readonly state: string;
  readonly bootId: string | undefined;
  readonly activeRequests: number | undefined;
  readonly queuedTokens: number | undefined;
  readonly served: RankTotals | undefined;
  /** Blocks of the attention cache; undefined for older releases. */
  readonly kv: { readonly blocks: number; readonly used: number } | undefined;
}

interface PlanUnderWay {
  readonly kind: string;
  readonly moves: number;
  readonly plan: PlacementPlan;
  readonly phases: ReadonlyMap<number, LayerPhase>;
}

export interface PlacementView {
  readonly plan: PlacementPlan | undefined;
  readonly underWay: PlanUnderWay | undefined;
  readonly status: ExpertPlacementStatus | undefined;
  /** Expected relative rows of each expert, [layers * experts]; undefined before enough load. */
  readonly expected: Float64Array | undefined;
  readonly experts: number;
  readonly ranks: readonly RankLoad[];
}

interface Known {
  readonly status: ExpertPlacementStatus | undefined;
  readonly expected: Float64Array | undefined;
  readonly rollout: (Omit<PlanUnderWay, "phases"> & { readonly phases: PlanUnderWay["phases"] | undefined }) | undefined;
}

export function placementView({ views, plan, shape }: Observed, { status, expected, rollout }: Known): PlacementView {
  return {
    plan,
    underWay: rollout?.phases && { kind: rollout.kind, moves: rollout.moves, plan: rollout.plan, phases: rollout.phases },
    status,
    expected,
    experts: shape?.experts ?? 0,
    ranks: currentByRank(views).map(rankOf),
  };
}

function rankOf({ rank, pod, state, report }: RankView): RankLoad {
  const use = report?.status?.use;
  return {
    rank,
    pod: pod.name,
    node: pod.node,
    zone: pod.zone,
    state,
    bootId: report?.description?.bootId,
    activeRequests: report?.status?.activeRequests,
    queuedTokens: report?.status?.queuedTokens,
    served: report?.status?.served,
    kv: use && { blocks: use.kvBlocks, used: use.kvBlocksUsed },
  };
}
