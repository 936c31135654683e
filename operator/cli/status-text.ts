// The text of `enodia status` for one deployment. Pure.
import type { Condition } from "../../crds/conditions.ts";
import type { ExpertPlacement } from "../../crds/expert-placement.ts";
import type { MoEDeployment } from "../../crds/moe-deployment.ts";
import { deploymentState, moveText, type PlacementState } from "../views/deployment.ts";
import { bytes, percent } from "../views/format.ts";
import type { RankState } from "../views/ranks.ts";
import { operationLine, rolloutLine } from "./rollout-text.ts";
import { plainLine, table } from "./table.ts";

interface RankRow extends RankState {
  /** Resident memory as the kubelet reports it. */
  readonly memoryBytes: number | undefined;
}

export interface StatusDetail {
  readonly deployment: MoEDeployment;
  readonly placement: ExpertPlacement | undefined;
  readonly ranks: readonly RankRow[];
}

/** Leaves out messages that are part of `above`. */
export function renderStatus({ deployment, placement, ranks }: StatusDetail, above = ""): string {
  const { spec, status, metadata } = deployment;
  const { modelText, placement: state } = deploymentState(deployment, placement?.status);
  const ready = `replicas ${status.readyReplicas ?? 0}/${spec.replicas}`;
  const lines = [`${metadata.namespace}/${metadata.name}   ${spec.model.uri}   ${ready}   ${status.address?.url ?? ""}`];
  if (modelText !== undefined) lines.push(`model      ${modelText}`);
  lines.push(...zeroLines(status), ...capacityLines(status), ...gatewayLines(deployment), ...operationLines(deployment));
  const conditions = status.conditions ?? [];
  if (conditions.length > 0) lines.push(`conditions ${conditions.map((c) => `${c.type}=${c.status} (${c.reason})`).join("  ")}`);
  const decision = decisionOf(placement);
  // The condition of an unbalanced placement repeats the decision.
  const messages = wrong(conditions).filter((c) => c.message !== decision && !above.includes(plainLine(c.message)));
  lines.push(...messages.map((c) => `           ${c.type}: ${c.message}`));
  if (placement) lines.push(...renderPlacement(state, placement));
  lines.push("", renderRanks(ranks));
  return lines.join("\n");
}

/** Since when nobody has sent a request, at zero ranks. */
function zeroLines({ conditions = [], autoscale }: MoEDeployment["status"]): string[] {
  const ready = conditions.find(({ type, status }) => type === "Ready" && status === "True");
  return ready?.reason === "ScaledToZero" ? [`scaled     to zero: ${autoscale?.lastScale?.message ?? ready.message}`] : [];
}

function operationLines(deployment: MoEDeployment): string[] {
  const { operation, rollout } = deployment.status;
  const lines = operation ? [`operation  ${operationLine(operation)}`] : [];
  return rollout && rollout.phase !== "Complete" ? [...lines, `rollout    ${rolloutLine(deployment)}`] : lines;
}

function capacityLines({ model, expertParallel }: MoEDeployment["status"]): string[] {
  const lines: string[] = [];
  if (model?.requestsPerRank !== undefined)
    lines.push(`requests   ${model.requestsPerRank} at once per rank (${model.requestsPerRankReason})`);
  if (expertParallel?.leastRanks !== undefined)
    lines.push(`ranks      at least ${expertParallel.leastRanks} (${expertParallel.leastRanksReason})`);
  return lines;
}

function gatewayLines({ spec, status }: MoEDeployment): string[] {
  if (!status.gateway) return [];
  const { replicas = 0, readyReplicas = 0, autoscalerProblem } = status.gateway;
  const { autoscale, replicas: fixed } = spec.gateway;
  const { minReplicas, maxReplicas, targetCPUUtilizationPercentage: target } = autoscale ?? {};
  const scaled = autoscale ? `autoscaled, ${minReplicas} to ${maxReplicas} at ${target}% of their CPU request` : "left to who scales them";
  const lines = [`gateways   ${readyReplicas}/${replicas} ready (${fixed === undefined ? scaled : "as spec.gateway.replicas says"})`];
  return autoscale && autoscalerProblem ? [...lines, `           autoscaler: ${autoscalerProblem}`] : lines;
}

/** Conditions that may be healthy without being True. */
const healthyWhen: Readonly<Record<string, (condition: Condition) => boolean>> = {
  Degraded: ({ status }) => status === "False",
  FieldConflict: ({ status }) => status === "False",
  Progressing: ({ status, reason }) => status === "True" || reason === "Converged",
};

/** Conditions that need a person; Unknown ones do not once it is Ready. */
function wrong(conditions: readonly Condition[]): Condition[] {
  const ready = conditions.some(({ type, status }) => type === "Ready" && status === "True");
  return conditions.filter((condition) => {
    if (condition.message === "" || (ready && condition.status === "Unknown")) return false;
    const healthy = healthyWhen[condition.type] ?? (({ status }) => status === "True");
    return !healthy(condition);
  });
}

/** The planner's last decision, "not moving" included. */
function decisionOf(placement: ExpertPlacement | undefined): string | undefined {
  const decision = placement?.status.decision;
  return decision && `${decision.reason}: ${decision.message}`;
}

function renderPlacement(state: PlacementState, placement: ExpertPlacement): string[] {
  const { policy, mode, imbalancePercent, boundPercent, last } = state;
  const balance = `imbalance ${percent(imbalancePercent)} (bound ${percent(boundPercent)})`;
  const lines = [`placement  epoch ${placement.spec.epoch} ${placement.status.phase ?? ""}   policy ${policy} (${mode})   ${balance}`];
  const reason = state.reason ?? placement.spec.reason;
  if (reason) lines.push(`           ${reason}`);
  const decision = decisionOf(placement);
  if (decision) lines.push(`decision   ${decision}`);
  if (last) lines.push(`last move  ${last.time}: ${moveText(last)}`);
  return lines;
}

function renderRanks(ranks: readonly RankRow[]): string {
  const header = ["RANK", "POD", "NODE", "STATE", "EPOCH", "EXPERTS", "BUDGET", "MEMORY", "EXPECTED <=", "LOAD"];
  const rows = ranks.map((row) => [
    String(row.rank),
    row.pod,
    row.node ?? "-",
    row.state,
    String(row.epoch ?? "-"),
    bytes(row.hostedBytes),
    bytes(row.budgetBytes),
    bytes(row.memoryBytes),
    bytes(row.memoryExpectedBytes),
    percent(row.loadPercent),
  ]);
  return table(header, rows);
}
