// The picture of one deployment's placement for people who look on, such as at the operator's page: the plan that holds, the plan under
// way with how far its layers are, the ranks and the load that is expected. Made when it is asked for, from the last observation. Pure.
import type { ExpertPlacementStatus } from "../../../crds/expert-placement.ts";
import type { PlacementPlan } from "../../../crds/plan.ts";
import type { ServedTotals } from "../../deployment/ports.ts";
import { currentByRank } from "../members.ts";
import type { Observed, RankView } from "../observed.ts";
import type { LayerPhase } from "../rollout/protocol-types.ts";

export interface PictureRank {
  readonly rank: number;
  readonly pod: string;
  readonly node: string | undefined;
  readonly zone: string | undefined;
  readonly state: string;
  /** The process; undefined until it was described. */
  readonly bootId: string | undefined;
  /** Undefined until the rank has said so. */
  readonly activeRequests: number | undefined;
  readonly queuedTokens: number | undefined;
  readonly served: ServedTotals | undefined;
  /** Blocks of the attention cache; undefined of releases that do not say. */
  readonly kv: { readonly blocks: number; readonly used: number } | undefined;
}

interface PlanUnderWay {
  readonly kind: string;
  readonly moves: number;
  /** The plan as it is to be. */
  readonly plan: PlacementPlan;
  /** The layers that it changes. */
  readonly phases: ReadonlyMap<number, LayerPhase>;
}

export interface PlacementPicture {
  /** The committed plan. */
  readonly plan: PlacementPlan | undefined;
  readonly underWay: PlanUnderWay | undefined;
  /** The status of the ExpertPlacement as it should read now. */
  readonly status: ExpertPlacementStatus | undefined;
  /** Rows that are expected of each expert, [layers * experts], in proportion; undefined until enough load was seen. */
  readonly expected: Float64Array | undefined;
  /** Experts of a layer in `expected`. */
  readonly experts: number;
  readonly ranks: readonly PictureRank[];
}

interface Known {
  readonly status: ExpertPlacementStatus | undefined;
  readonly expected: Float64Array | undefined;
  readonly rollout: (Omit<PlanUnderWay, "phases"> & { readonly phases: PlanUnderWay["phases"] | undefined }) | undefined;
}

export function placementPicture({ views, plan, shape }: Observed, { status, expected, rollout }: Known): PlacementPicture {
  return {
    plan,
    underWay: rollout?.phases && { kind: rollout.kind, moves: rollout.moves, plan: rollout.plan, phases: rollout.phases },
    status,
    expected,
    experts: shape?.experts ?? 0,
    ranks: currentByRank(views).map(rankOf),
  };
}

function rankOf({ rank, pod, state, report }: RankView): PictureRank {
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
