// The text of `enodia status` for one deployment. Pure.
import type { Condition } from "../../crds/conditions.ts";
import type { ExpertPlacement } from "../../crds/expert-placement.ts";
import type { MoEDeployment } from "../../crds/moe-deployment.ts";
import { deploymentState, moveText, type PlacementState } from "../views/deployment.ts";
import { bytes, percent } from "../views/format.ts";
import type { RankState } from "../views/ranks.ts";
import { operationLine, rolloutLine } from "./rollout-text.ts";
import { type Column, type Fact, factLines, plainLine, tableOf } from "./table.ts";

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
  const { conditions = [], operation, rollout, model, expertParallel } = status;
  const { decision } = placement?.status ?? {};
  const decided = decision && `${decision.reason}: ${decision.message}`;
  // The condition of an unbalanced placement repeats the decision.
  const messages = wrong(conditions).filter((c) => c.message !== decided && !above.includes(plainLine(c.message)));
  return [
    `${metadata.namespace}/${metadata.name}   ${spec.model.uri}   replicas ${status.readyReplicas ?? 0}/${spec.replicas}   ${status.address?.url ?? ""}`,
    ...factLines([
      ["model", modelText],
      ["scaled", zeroText(status)],
      [
        "requests",
        model?.requestsPerRank === undefined ? undefined : `${model.requestsPerRank} at once per rank (${model.requestsPerRankReason})`,
      ],
      [
        "ranks",
        expertParallel?.leastRanks === undefined ? undefined : `at least ${expertParallel.leastRanks} (${expertParallel.leastRanksReason})`,
      ],
      ...gatewayFacts(deployment),
      ["operation", operation && operationLine(operation)],
      ["rollout", rollout && rollout.phase !== "Complete" ? rolloutLine(deployment) : undefined],
      ["conditions", conditions.map((c) => `${c.type}=${c.status} (${c.reason})`).join("  ") || undefined],
      ...messages.map((c) => ["", `${c.type}: ${c.message}`] as const),
      ...(placement ? placementFacts(state, placement) : []),
      ["decision", decided],
      ["last move", placement && state.last && `${state.last.time}: ${moveText(state.last)}`],
    ]),
    "",
    tableOf(rankColumns, ranks),
  ].join("\n");
}

/** Since when nobody has sent a request, at zero ranks. */
function zeroText({ conditions = [], autoscale }: MoEDeployment["status"]): string | undefined {
  const ready = conditions.find(({ type, status }) => type === "Ready" && status === "True");
  return ready?.reason === "ScaledToZero" ? `to zero: ${autoscale?.lastScale?.message ?? ready.message}` : undefined;
}

function gatewayFacts({ spec, status }: MoEDeployment): readonly Fact[] {
  if (!status.gateway) return [];
  const { replicas = 0, readyReplicas = 0, autoscalerProblem } = status.gateway;
  const { autoscale, replicas: fixed } = spec.gateway;
  const { minReplicas, maxReplicas, targetCPUUtilizationPercentage: target } = autoscale ?? {};
  const scaled = autoscale ? `autoscaled, ${minReplicas} to ${maxReplicas} at ${target}% of their CPU request` : "left to who scales them";
  return [
    ["gateways", `${readyReplicas}/${replicas} ready (${fixed === undefined ? scaled : "as spec.gateway.replicas says"})`],
    ["", autoscale && autoscalerProblem && `autoscaler: ${autoscalerProblem}`],
  ];
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

function placementFacts(
  { policy, mode, imbalancePercent, boundPercent, reason }: PlacementState,
  { spec, status }: ExpertPlacement,
): readonly Fact[] {
  const balance = `imbalance ${percent(imbalancePercent)} (bound ${percent(boundPercent)})`;
  return [
    ["placement", `epoch ${spec.epoch} ${status.phase ?? ""}   policy ${policy} (${mode})   ${balance}`],
    ["", reason || spec.reason || undefined],
  ];
}

const rankColumns: readonly Column<RankRow>[] = [
  ["RANK", ({ rank }) => String(rank)],
  ["POD", ({ pod }) => pod],
  ["NODE", ({ node }) => node ?? "-"],
  ["STATE", ({ state }) => state],
  ["EPOCH", ({ epoch }) => String(epoch ?? "-")],
  ["EXPERTS", ({ hostedBytes }) => bytes(hostedBytes)],
  ["BUDGET", ({ budgetBytes }) => bytes(budgetBytes)],
  ["MEMORY", ({ memoryBytes }) => bytes(memoryBytes)],
  ["EXPECTED <=", ({ memoryExpectedBytes }) => bytes(memoryExpectedBytes)],
  ["LOAD", ({ loadPercent }) => percent(loadPercent)],
];
