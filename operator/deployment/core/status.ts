// The status of a MoEDeployment from a snapshot and the pod actions that were decided. Pure; the only place that writes status fields.
import { labels } from "../../../crds/common.ts";
import { rfc3339, withTransition } from "../../../crds/conditions.ts";
import { type MoEDeploymentStatus, moeDeploymentConditions, type Operation, type PodFailure } from "../../../crds/moe-deployment-status.ts";
import { shareText } from "../../../crds/progress-text.ts";
import { parseDuration } from "../../../crds/quantity.ts";
import { type Reckoned, requestsPerRank } from "./capacity.ts";
import { type Findings, lostRanks, verdicts } from "./conditions.ts";
import { orphansLeft } from "./orphans.ts";
import type { Action, Blocked } from "./pod-actions.ts";
import { imageStatus } from "./runtime-image.ts";
import { living, type Refusal, type Snapshot, servingPods, wantedGateways } from "./snapshot.ts";
import type { Target } from "./target.ts";
import type { LeavingReason } from "./world.ts";

export interface StatusInput {
  readonly snapshot: Snapshot;
  readonly target: Target;
  readonly refusals: readonly Refusal[];
  readonly actions: readonly Action[];
  readonly blocked: Blocked | undefined;
  /** What is to be said of a roll; empty when there is nothing. */
  readonly note: string;
  /** The least ranks that hold all experts, where that is known. */
  readonly floor: Reckoned | undefined;
  readonly failures: readonly PodFailure[];
  /** What went wrong in this pass; empty when nothing did. */
  readonly failure: string;
  /** The reason why the spec could be neither put in force nor refused; empty when it was judged. */
  readonly unjudged: string;
  /** The reason why a missing rank cannot be made; empty when it can, as far as is known. */
  readonly uncreated: string;
}

const lostRanksMax = 64;
/** Characters of an operation's message. */
const messageMax = 1024;

function workerSelector(name: string): string {
  return `${labels.deployment}=${name},${labels.component}=worker`;
}

export function nextStatus(input: StatusInput): MoEDeploymentStatus {
  const { snapshot, target, refusals, blocked, failure, failures, unjudged, uncreated } = input;
  const { deployment, now, view } = snapshot;
  const old = deployment.status;
  const operation = currentOperation(input);
  const findings: Findings = {
    snapshot,
    ranks: target.ranks,
    refusals,
    blocked,
    operation,
    pendingReplicas: target.pending?.replicas,
    failure,
    failures,
    unjudged,
    uncreated,
  };
  const pods = living(snapshot.pods);
  const serving = servingPods(snapshot);
  const all = verdicts(findings);
  const { generation, name, namespace } = deployment.metadata;
  return {
    observedGeneration: generation,
    replicas: pods.length,
    readyReplicas: pods.filter((pod) => pod.ready).length,
    availableReplicas: serving.length,
    updatedReplicas: pods.filter((pod) => pod.templateHash === snapshot.templateHash).length,
    selector: workerSelector(name),
    expertParallel: {
      desiredRanks: awaitsModel(snapshot) ? 0 : target.ranks,
      activeRanks: serving.length,
      lostRanks: serving.length < target.ranks ? lostRanks(findings).slice(0, lostRanksMax) : [],
      ...(input.floor ? { leastRanks: input.floor.count, leastRanksReason: input.floor.reason } : {}),
      ...(failures.length > 0 ? { podFailures: [...failures] } : {}),
      ...(operation ? { operation } : {}),
      ...(target.pending ? { pendingReplicas: target.pending.replicas, pendingSince: rfc3339(target.pending.since) } : {}),
    },
    ...known("runtimeImage", snapshot.runtimeImage && imageStatus(snapshot.runtimeImage), old.runtimeImage),
    ...known("placement", view?.placement, old.placement),
    ...known("telemetry", view?.telemetry, old.telemetry),
    ...(modelStatus(snapshot) ?? (old.model ? { model: old.model } : {})),
    ...downloadStatus(snapshot),
    gateway: gatewayStatus(snapshot),
    address: { url: `${deployment.spec.gateway.tls ? "https" : "http"}://${name}.${namespace}.svc:${deployment.spec.service.port}` },
    conditions: moeDeploymentConditions.map((type) =>
      withTransition(old.conditions ?? [], { type, ...all[type], observedGeneration: generation }, now),
    ),
  };
}

function gatewayStatus(snapshot: Snapshot): MoEDeploymentStatus["gateway"] {
  const { ready, unscaled } = snapshot.gateway;
  const counts = { replicas: wantedGateways(snapshot), readyReplicas: ready };
  return unscaled === "" ? counts : { ...counts, autoscalerProblem: unscaled };
}

/**
 * What is known now, or was known last: the rebalance plane may have nothing to say yet. An empty object is never written: applied
 * over a filled one it would become null.
 */
function known<K extends "runtimeImage" | "placement" | "telemetry">(
  key: K,
  now: MoEDeploymentStatus[K],
  before: MoEDeploymentStatus[K],
): Pick<MoEDeploymentStatus, K> {
  const value = [now, before].find((one) => one !== undefined && Object.keys(one).length > 0);
  return (value ? { [key]: value } : {}) as Pick<MoEDeploymentStatus, K>;
}

function modelStatus({ view, deployment }: Snapshot): Pick<MoEDeploymentStatus, "model"> | undefined {
  const model = view?.model;
  if (!model) return undefined;
  const { digest, architecture, layers, experts, topK, expertBytes, denseBytes } = model;
  const known = { digest, architecture, layers, expertsPerLayer: experts, topK, expertBytes, denseBytes };
  const requests = requestsPerRank(deployment.spec, model);
  return { model: { ...known, requestsPerRank: requests.count, requestsPerRankReason: requests.reason } };
}

/** Nothing runs yet, and nothing will before the model is there. */
const awaitsModel = ({ delivery, pods }: Snapshot): boolean => delivery.pending !== undefined && living(pods).length === 0;

/** How far the download is. Of one that is done, what it was; of a model that is not downloaded, nothing. */
function downloadStatus({ deployment, delivery }: Snapshot): Pick<MoEDeploymentStatus, "download"> {
  const { model } = deployment.spec;
  if (model.cache === undefined) return {};
  const { uri } = model;
  const before = deployment.status.download?.uri === uri ? deployment.status.download : undefined;
  const { pending } = delivery;
  const { words } = pending ?? {};
  const revision = words?.revision ?? delivery.revision ?? before?.revision;
  const known = { uri, ...(revision !== undefined && { revision }) };
  if (!pending) return { download: { ...known, phase: "Done", progress: "Done" } };
  if (!words) return { download: { ...known, phase: "Waiting", progress: pending.reason } };
  const { phase, doneBytes, totalBytes, bytesPerSecond } = words;
  const progress = phase === "Downloading" ? shareText({ bytes: doneBytes, of: totalBytes }) : phase;
  return { download: { ...known, phase, progress, doneBytes, totalBytes, bytesPerSecond } };
}

/** The operation that is under way, with the start and deadline it had before when it is still the same. */
function currentOperation(input: StatusInput): Operation | undefined {
  const { snapshot, target } = input;
  const { spec, status } = snapshot.deployment;
  const type = operationType(input);
  if (!type) return undefined;
  const before = status.expertParallel?.operation;
  const message = describe(input);
  if (before && before.type === type && before.toRanks === target.ranks) return { ...before, message };
  const deadline = new Date(snapshot.now.getTime() + parseDuration(spec.elasticity.operationTimeout, "spec.elasticity.operationTimeout"));
  return {
    type,
    fromRanks: status.expertParallel?.activeRanks ?? 0,
    toRanks: target.ranks,
    startTime: rfc3339(snapshot.now),
    deadline: rfc3339(deadline),
    message,
  };
}

/** Operations that are over when nothing leaves any more: what is missing then is missing for another reason. */
const passing: readonly Operation["type"][] = ["Stop", "Shrink", "Handover"];

function operationType(input: StatusInput): Operation["type"] | undefined {
  const { snapshot, target, actions, blocked } = input;
  const pods = living(snapshot.pods);
  if (awaitsModel(snapshot)) return undefined; // how long a download takes says nothing of the ranks
  const before = snapshot.deployment.status.expertParallel;
  if (target.ranks === 0) return pods.length > 0 ? "Stop" : undefined;
  const marks = actions.filter((action) => action.type === "mark");
  const leaves = (reason: LeavingReason) =>
    pods.some((pod) => pod.leaving?.reason === reason) || marks.some((mark) => mark.reason === reason);
  if (!blocked && leaves("Shrink")) return "Shrink";
  if (pods.some((pod) => pod.mustGo !== "" || (pod.terminating && !pod.leaving)) || leaves("Evict")) return "Handover";
  if (leaves("Roll")) return "Roll";
  const rolling = pods.some((pod) => pod.templateHash !== snapshot.templateHash);
  if (!blocked && !rolling && pods.length > target.ranks) return "Shrink";
  const serving = servingPods(snapshot).length;
  if (serving >= target.ranks) return rolling ? "Roll" : undefined;
  // Short of ranks: keep the name of what led here, so that a slow start does not turn into a repair.
  const last = before?.operation;
  if (last && last.toRanks === target.ranks && !passing.includes(last.type)) return last.type;
  const had = before?.desiredRanks ?? 0;
  if (had === 0) return "Start";
  return target.ranks > had ? "Grow" : "Repair";
}

function describe({ snapshot, target, note }: StatusInput): string {
  const pods = living(snapshot.pods);
  const waits = pods
    .filter((pod) => pod.leaving || pod.terminating)
    .map((pod) => `rank ${pod.rank} leaves: ${snapshot.view?.drains.find((drain) => drain.podUid === pod.uid)?.phase ?? "marked"}`);
  const stays = pods
    .filter((pod) => pod.mustGo !== "" && !pod.leaving && !pod.terminating)
    .map((pod) => `rank ${pod.rank} leaves when another serves: ${pod.mustGo}`);
  const serve = `${servingPods(snapshot).length} of ${target.ranks} ranks serve`;
  const notes = [note, orphansLeft(snapshot)].filter((text) => text !== "");
  return [serve, ...waits.slice(0, 8), ...stays.slice(0, 4), ...notes].join("; ").slice(0, messageMax);
}
