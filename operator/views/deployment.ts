// The state of a MoEDeployment, and what commands and the page say of it. Pure.
import { labels } from "../../crds/common.ts";
import type { Condition } from "../../crds/conditions.ts";
import type { ExpertPlacement } from "../../crds/expert-placement.ts";
import type { MoEDeployment } from "../../crds/moe-deployment.ts";
import type { MoEDeploymentStatus } from "../../crds/moe-deployment-status.ts";
import type { Operation, PastOperation } from "../../crds/operation.ts";
import { bytes, figure, percent, sumOf } from "./format.ts";
import { deploymentHealth, type Health } from "./health.ts";
import { type loadsOf, type RankRow, rankTable } from "./ranks.ts";
import {
  type Column,
  type Fact,
  facts,
  message,
  note,
  picked,
  type Section,
  strong,
  type Table,
  table,
  time,
  type Value,
} from "./section.ts";

type LastMove = NonNullable<MoEDeploymentStatus["placement"]>["lastRebalance"];

export type DeploymentState = ReturnType<typeof deploymentState>;

export function deploymentState(deployment: MoEDeployment) {
  const { metadata, spec, status } = deployment;
  const { gateway, expertParallel } = status;
  return {
    namespace: metadata.namespace,
    name: metadata.name,
    /** The deployment that a green one belongs to. */
    owner: metadata.labels?.[labels.greenOf],
    health: deploymentHealth(status.conditions, status.operation?.type),
    /** Undefined before the operator has looked at it. */
    serving: expertParallel?.activeRanks ?? status.availableReplicas ?? (status.conditions && 0),
    desired: expertParallel?.desiredRanks ?? spec.replicas,
    gateways: gateway ? `${gateway.readyReplicas ?? 0}/${gateway.replicas ?? 0}` : "-",
    placement: placementState(deployment),
    modelUri: spec.model.uri,
    operation: status.operation,
  };
}

/** `plan`: the status of its ExpertPlacement, where read. */
export function placementState({ spec, status }: MoEDeployment, plan?: ExpertPlacement["status"]) {
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
const moveValue = ({ time: at, result, moves, bytes: moved, durationMs, ...imbalance }: NonNullable<LastMove>): Value => {
  const change = `${percent(imbalance.imbalanceBeforePercent)} -> ${percent(imbalance.imbalanceAfterPercent)}`;
  return [time(at), `: ${result}, ${moves} moves, ${bytes(moved)} in ${(durationMs / 1000).toFixed(1)} s, ${change}`];
};

export interface StatusDetail {
  readonly deployment: MoEDeployment;
  readonly placement: ExpertPlacement | undefined;
  readonly ranks: readonly RankRow[];
}

export function headOf(deployment: MoEDeployment): readonly Value[] {
  const { health } = deploymentState(deployment);
  return [healthMark(health), health.message];
}

/** Messages that stand `above` are not repeated. */
export const statusSections = ({ deployment, placement, ranks }: StatusDetail, above: string): readonly Section[] => [
  message(strong(`${deployment.metadata.namespace}/${deployment.metadata.name}`), ...headOf(deployment)),
  facts(...deploymentFacts(deployment), ...placementFacts(deployment, placement)),
  rankTable(["rank", "pod", "node", "state", "epoch", "expertBytes", "budget", "memory", "expected", "load"], ranks),
  conditionTable(deployment.status.conditions, `${above}\n${deploymentState(deployment).health.message}`),
];

export function deploymentFacts(deployment: MoEDeployment): readonly Fact[] {
  const { spec, status } = deployment;
  const { model, download, operation, rollout, expertParallel } = status;
  return [
    ["Model", [spec.model.uri, note(modelText(deployment) ?? "not opened yet")]],
    ["Download", download && download.phase !== "Done" ? download.progress : undefined],
    ["Replicas", `${status.readyReplicas ?? 0}/${spec.replicas} ready`],
    ["Address", status.address?.url],
    ["Scaled", zeroText(status)],
    [
      "Requests",
      model?.requestsPerRank && [
        `${model.requestsPerRank} at once per rank`,
        model.requestsPerRankReason && note(model.requestsPerRankReason),
      ],
    ],
    [
      "Ranks",
      expertParallel?.leastRanks && [
        `at least ${expertParallel.leastRanks}`,
        expertParallel.leastRanksReason && note(expertParallel.leastRanksReason),
      ],
    ],
    ...gatewayFacts(deployment),
    ["Operation", operation && operationValue(operation)],
    ["Rollout", rollout && rollout.phase !== "Complete" ? rolloutValue(deployment) : undefined],
  ];
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
    ["Gateways", [`${readyReplicas}/${replicas} ready`, note(fixed === undefined ? scaled : "as spec.gateway.replicas says")]],
    ["Autoscaler", autoscale && autoscalerProblem],
  ];
}

type Plan = Pick<ExpertPlacement, "status"> & { readonly spec?: Pick<ExpertPlacement["spec"], "epoch" | "parentEpoch" | "reason"> };

export function placementFacts(deployment: MoEDeployment, plan?: Plan): readonly Fact[] {
  const state = placementState(deployment, plan?.status);
  const { decision } = plan?.status ?? {};
  const decided = decision && `${decision.reason}: ${decision.message}`;
  // The condition of an unbalanced placement repeats the decision.
  const repeated = deployment.status.conditions?.some(({ message }) => message.includes(decision?.message ?? ""));
  const parent = plan?.spec && `, parent ${plan.spec.parentEpoch}`;
  const balance = `worst layer, bound ${percent(state.boundPercent)}, trigger ${state.triggerPercent}%`;
  return [
    ["Imbalance", [percent(state.imbalancePercent), note(balance)]],
    ["In memory", memoryValue(plan?.status.ranks)],
    ["Epoch", [plan?.spec?.epoch ?? state.epoch ?? "-", note(`${state.phase ?? "no plan yet"}${parent ?? ""}`)]],
    ["Policy", [state.policy, note(state.mode)]],
    ["Plan", plan?.spec?.reason || undefined],
    ["Now", state.reason || undefined],
    ["Decision", repeated ? undefined : decided],
    ["Last move", state.last && moveValue(state.last)],
  ];
}

/** Undefined where memory holds all experts that ranks serve. */
function memoryValue(ranks: ExpertPlacement["status"]["ranks"] = []): Value {
  if (ranks.every(({ servedBytes }) => servedBytes === undefined)) return undefined;
  const all = (of: keyof ReturnType<typeof loadsOf>): string => bytes(sumOf(ranks.map((rank) => rank[of])));
  return [
    `${all("hostedBytes")} of the ${all("servedBytes")} that ranks serve`,
    note(`loaded for a token: ${all("measuredLoadBytes")} measured, ${all("predictedLoadBytes")} predicted`),
  ];
}

/** "3 ranks, revision 4, epoch 7". */
const sideText = ({ ranks, revision, epoch }: Operation["from"]): string =>
  [`${ranks} ranks`, revision === undefined ? [] : `revision ${revision}`, epoch === undefined ? [] : `epoch ${epoch}`].flat().join(", ");

/** "Roll (roll-1772359200000) Emptying   3 ranks, revision 4 -> 3 ranks, revision 5   since ..." */
const operationValue = ({ id, type, phase, from, to, startTime, deadline, message }: Operation): Value => [
  [strong(type), note(id), phase, `  ${sideText(from)} -> ${sideText(to)}  `],
  ["since", time(startTime), ", by", time(deadline), message && `: ${message}`],
];

/** "Progressing   1 of 3 ranks serve with revision 2, last whole revision 1: ..."; undefined before the first accepted spec. */
function rolloutValue({ spec, status }: MoEDeployment): Value {
  if (!status.rollout) return undefined;
  const { phase, revision, stableRevision, updatedRanks = 0, message } = status.rollout;
  const last = stableRevision === undefined ? "no revision was whole yet" : `last whole revision ${stableRevision}`;
  return [phase, `  ${updatedRanks} of ${spec.replicas} ranks serve with revision ${revision ?? "-"}, ${last}`, message && `: ${message}`];
}

export function rolloutSections(deployment: MoEDeployment): readonly Section[] {
  const { metadata, status } = deployment;
  const { green, rolledBack } = status.rollout ?? {};
  const named = `${metadata.name} -n ${metadata.namespace}`;
  return [
    facts(
      ["Rollout", rolloutValue(deployment) ?? "no spec is in effect yet"],
      ["Green", green && [green.name, green.phase, "  since", time(green.since)]],
      ["Operation", status.operation && operationValue(status.operation)],
      ["Remedy", rolledBack && `correct the spec, or make it what runs: enodia rollout undo ${named}`],
      ["", rolledBack && `or try the same again: enodia rollout resume ${named}`],
    ),
  ];
}

export interface RevisionRow {
  readonly number: number;
  readonly generation: number;
  readonly templateHash: string;
  readonly image: string;
  /** URI and codec. */
  readonly model: string;
}

export function historySections(deployment: MoEDeployment, revisions: readonly RevisionRow[]): readonly Section[] {
  const { revision, stableRevision } = deployment.status.rollout ?? {};
  const columns: readonly Column<RevisionRow>[] = [
    ["Revision", ({ number }) => number],
    ["Generation", ({ generation }) => generation],
    ["Template", ({ templateHash }) => templateHash],
    ["Image", ({ image }) => image],
    ["Model", ({ model }) => model],
    ["State", ({ number }) => [number === revision && "in effect", number === stableRevision && "whole"].filter(Boolean).join(", ")],
  ];
  return [table(columns, revisions, { caption: "Revisions" }), operationTable(deployment)];
}

const operationColumns: readonly Column<PastOperation>[] = [
  ["Operation", ({ id }) => id],
  ["Result", ({ result }) => result],
  ["From", ({ from }) => sideText(from)],
  ["To", ({ to }) => sideText(to)],
  ["Began", ({ startTime }) => time(startTime)],
  ["Ended", ({ endTime }) => time(endTime)],
  ["Why", ({ message }) => message],
];

export const operationTable = ({ status: { history = [] } }: MoEDeployment): Table =>
  table(operationColumns, history, { caption: "Operations, newest first", none: "no operation has ended yet" });

const conditionColumns: readonly Column<Condition>[] = [
  ["Condition", ({ type }) => type],
  ["Status", ({ status }) => status],
  ["Reason", ({ reason }) => reason],
  ["Since", ({ lastTransitionTime }) => time(lastTransitionTime)],
  ["Message", ({ message }) => message],
];

export const conditionTable = (conditions: readonly Condition[] = [], above = ""): Table =>
  table(
    conditionColumns,
    conditions.map((one) => (above.includes(one.message) ? { ...one, message: "" } : one)),
    { caption: "Conditions", none: "no condition yet" },
  );

/** A deployment in a list; one that cannot be read has a name and its health alone. */
export type DeploymentRow = Pick<DeploymentState, "namespace" | "name" | "health"> & Partial<DeploymentState>;

export const healthMark = ({ mark, reason }: Health, text = reason): Value => ({ as: "mark", text, mark });

const deploymentColumns = {
  namespace: ["Namespace", ({ namespace }) => namespace],
  name: ["Name", ({ name, owner }) => (owner === undefined ? name : `- ${name}, green deployment`)],
  link: ["Deployment", ({ namespace, name }) => ({ as: "link", text: `${namespace}/${name}`, page: "deployment", namespace, name })],
  status: ["Status", ({ health }) => healthMark(health, health.mark === "well" ? "Serving" : health.reason)],
  ranks: ["Ranks", ({ serving, desired }) => (desired === undefined ? undefined : `${figure(serving)}/${desired}`)],
  gateways: ["Gateways", ({ gateways }) => gateways],
  imbalance: ["Imbalance", ({ placement }) => percent(placement?.imbalancePercent)],
  bound: ["Bound", ({ placement }) => percent(placement?.boundPercent)],
  epoch: ["Epoch", ({ placement }) => placement?.epoch],
  operation: ["Operation", ({ operation }) => operation && `${operation.type} ${operation.phase}`],
  model: ["Model", ({ modelUri }) => modelUri],
  message: ["Message", ({ health }) => ({ as: "cut", text: health.message })],
} as const satisfies Readonly<Record<string, Column<DeploymentRow>>>;

export const deploymentList = <R extends DeploymentRow>(names: readonly (keyof typeof deploymentColumns)[]): readonly Column<R>[] =>
  picked<DeploymentRow, keyof typeof deploymentColumns>(deploymentColumns, names);
