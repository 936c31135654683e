// The explanation of a plan: reason, prediction, measurement, hosts, risks and last decisions. Pure.
import type { ExpertPlacement } from "../../crds/expert-placement.ts";
import type { MoEDeployment } from "../../crds/moe-deployment.ts";
import type { LayerPlan } from "../../crds/plan.ts";
import { placementState } from "./deployment.ts";
import { hostedBy, plansOf } from "./experts-view.ts";

export interface ExplainEvent {
  readonly time: string;
  readonly reason: string;
  readonly note: string;
  readonly count: number;
}

export interface ExplainFacts {
  readonly deployment: MoEDeployment;
  readonly placement: ExpertPlacement;
  /** Oldest first. */
  readonly events: readonly ExplainEvent[];
  /** Nodes by rank; an unlisted rank counts as a node of its own. */
  readonly nodes: ReadonlyMap<number, string>;
}

export interface Explained {
  readonly policy: string;
  readonly mode: string;
  readonly epoch: number;
  readonly parentEpoch: number;
  readonly phase: string | undefined;
  readonly planReason: string | undefined;
  readonly statusReason: string | undefined;
  readonly predicted: ExpertPlacement["status"]["predicted"];
  readonly measured: ExpertPlacement["status"]["measured"];
  readonly lastRebalance: NonNullable<MoEDeployment["status"]["placement"]>["lastRebalance"];
  readonly conditions: readonly { type: string; status: string; reason: string; message: string }[];
  readonly layersChanged: readonly number[];
  readonly hosting: readonly {
    rank: number;
    experts: number;
    expertReplicas: number;
    bytes: number | undefined;
    budget: number | undefined;
    speedPercent: number | undefined;
  }[];
  readonly phases: NonNullable<ExpertPlacement["status"]["phases"]>;
  readonly decision: ExpertPlacement["status"]["decision"];
  readonly forecast: ExpertPlacement["status"]["forecast"];
  readonly minExpertReplicas: number;
  /** Experts whose hosts share one node. */
  readonly atRisk: number;
  readonly events: readonly ExplainEvent[];
}

export function explain({ deployment, placement, events, nodes }: ExplainFacts): Explained {
  const { spec, status } = placement;
  const plans = plansOf(placement);
  const conditions = deployment.status.conditions ?? [];
  const { policy, mode, last } = placementState(deployment, status);
  return {
    policy,
    mode,
    epoch: spec.epoch,
    parentEpoch: spec.parentEpoch,
    phase: status.phase,
    planReason: spec.reason,
    statusReason: status.reason,
    predicted: status.predicted,
    measured: status.measured,
    lastRebalance: last,
    conditions: conditions.map(({ type, status: value, reason, message }) => ({ type, status: value, reason, message })),
    layersChanged: spec.layers.filter((layer) => layer.epoch === spec.epoch).map((layer) => layer.layer),
    hosting: hostingOf(placement, plans),
    phases: status.phases ?? [],
    decision: status.decision,
    forecast: status.forecast,
    minExpertReplicas: deployment.spec.experts.minExpertReplicas,
    atRisk: atRisk(plans, nodes),
    events,
  };
}

/** Counts by rank, since pods are replaced without a new plan. */
function atRisk(plans: readonly LayerPlan[], nodes: ReadonlyMap<number, string>): number {
  const alone = (row: readonly number[]): boolean => new Set(row.map((rank) => nodes.get(rank) ?? rank)).size < 2;
  return plans.reduce((n, layer) => n + layer.hosts.filter(alone).length, 0);
}

function hostingOf({ spec, status }: ExpertPlacement, plans: readonly LayerPlan[]): Explained["hosting"] {
  const ranks = plans.length === 0 ? [] : spec.ranks.map(({ rank }) => rank).sort((a, b) => a - b);
  return [...hostedBy(ranks, plans)].map(([rank, { held: experts, expertReplicas }]) => {
    const { hostedBytes: bytes, budgetBytes: budget, speedPercent } = status.ranks?.find((each) => each.rank === rank) ?? {};
    return { rank, experts, expertReplicas, bytes, budget, speedPercent };
  });
}
