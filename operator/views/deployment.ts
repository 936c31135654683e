// The state of a MoEDeployment for commands and the page. Pure.
import { labels } from "../../crds/common.ts";
import type { ExpertPlacement } from "../../crds/expert-placement.ts";
import type { MoEDeployment } from "../../crds/moe-deployment.ts";
import type { MoEDeploymentStatus } from "../../crds/moe-deployment-status.ts";
import type { Operation } from "../../crds/operation.ts";
import { bytes, percent } from "./format.ts";
import { deploymentHealth, type Health } from "./health.ts";

type LastMove = NonNullable<MoEDeploymentStatus["placement"]>["lastRebalance"];

export interface PlacementState {
  readonly epoch: number | undefined;
  readonly phase: string | undefined;
  readonly policy: string;
  readonly mode: string;
  readonly imbalancePercent: number | undefined;
  readonly boundPercent: number | undefined;
  readonly triggerPercent: number;
  readonly reason: string | undefined;
  readonly last: LastMove;
}

export interface DeploymentState {
  readonly namespace: string;
  readonly name: string;
  /** The deployment that a green one belongs to. */
  readonly owner: string | undefined;
  readonly health: Health;
  readonly serving: number | undefined;
  readonly desired: number;
  readonly gateways: string;
  readonly placement: PlacementState;
  readonly modelUri: string;
  readonly modelText: string | undefined;
  readonly operation: Operation | undefined;
  /** Undefined when complete. */
  readonly rollout: string | undefined;
}

/** `plan`: the status of its ExpertPlacement, where read. */
export function deploymentState(deployment: MoEDeployment, plan?: ExpertPlacement["status"]): DeploymentState {
  const { metadata, spec, status } = deployment;
  const { gateway, expertParallel, rollout } = status;
  return {
    namespace: metadata.namespace,
    name: metadata.name,
    owner: metadata.labels?.[labels.greenOf],
    health: deploymentHealth(status.conditions, status.operation?.type),
    serving: expertParallel?.activeRanks ?? status.availableReplicas,
    desired: expertParallel?.desiredRanks ?? spec.replicas,
    gateways: gateway ? `${gateway.readyReplicas ?? 0}/${gateway.replicas ?? 0}` : "-",
    placement: placementState(deployment, plan),
    modelUri: spec.model.uri,
    modelText: modelText(deployment),
    operation: status.operation,
    rollout: rollout && rollout.phase !== "Complete" ? rolloutText(deployment) : undefined,
  };
}

export function placementState({ spec, status }: MoEDeployment, plan?: ExpertPlacement["status"]): PlacementState {
  const { policy, mode, trigger } = spec.rebalancing;
  const { placement } = status;
  return {
    epoch: placement?.epoch,
    phase: plan?.phase ?? placement?.phase,
    policy,
    mode,
    imbalancePercent: placement?.imbalancePercent,
    boundPercent: placement?.boundPercent,
    triggerPercent: trigger.imbalancePercent,
    reason: plan?.reason,
    last: placement?.lastRebalance,
  };
}

function modelText({ spec, status: { model } }: MoEDeployment): string | undefined {
  if (!model) return undefined;
  const { architecture = "?", layers = "?", expertsPerLayer = "?", topK = "?" } = model;
  return `${architecture}, ${layers} layers x ${expertsPerLayer} experts, top-${topK}, experts ${bytes(model.expertBytes)} (${spec.runtime.expertCodec})`;
}

/** "Committed, 2 moves, 200 B in 1.5 s, 160% -> 108%". */
export function moveText({
  result,
  moves,
  bytes: moved,
  durationMs,
  imbalanceBeforePercent,
  imbalanceAfterPercent,
}: NonNullable<LastMove>): string {
  const time = `${(durationMs / 1000).toFixed(1)} s`;
  return `${result}, ${moves} moves, ${bytes(moved)} in ${time}, ${percent(imbalanceBeforePercent)} -> ${percent(imbalanceAfterPercent)}`;
}

/** "3 ranks, revision 4, epoch 7". */
export const sideText = ({ ranks, revision, epoch }: Operation["from"]): string =>
  [`${ranks} ranks`, revision === undefined ? [] : `revision ${revision}`, epoch === undefined ? [] : `epoch ${epoch}`].flat().join(", ");

/** "Progressing 1 of 3 ranks serve with revision 2, last whole revision 1: ..."; undefined before the first accepted spec. */
export function rolloutText({ spec, status }: MoEDeployment): string | undefined {
  if (!status.rollout) return undefined;
  const { phase, revision, stableRevision, updatedRanks = 0, message } = status.rollout;
  const last = stableRevision === undefined ? "no revision was whole yet" : `last whole revision ${stableRevision}`;
  return `${phase}   ${updatedRanks} of ${spec.replicas} ranks serve with revision ${revision ?? "-"}, ${last}${message ? `: ${message}` : ""}`;
}
