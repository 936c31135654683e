// The status of a MoEDeployment from a snapshot and the decided pod actions. Pure; the only writer of status fields.
import type { AutoscaleStatus } from "../../../crds/autoscale.ts";
import type { AppError } from "../../../crds/common.ts";
import { labels } from "../../../crds/common.ts";
import { rfc3339, withTransition } from "../../../crds/conditions.ts";
import { type MoEDeploymentStatus, moeDeploymentConditions, type PodFailure } from "../../../crds/moe-deployment-status.ts";
import type { Operation } from "../../../crds/operation.ts";
import { shareText } from "../../../crds/progress-text.ts";
import type { RolloutStatus } from "../../../crds/rollout.ts";
import type { Outcome } from "../../kube/controller.ts";
import type { Refusal } from "../../kube/refusal-text.ts";
import { type Reckoned, requestsPerRank } from "../core/capacity.ts";
import type { Memory } from "../core/memory.ts";
import { rolesText } from "../core/roles.ts";
import { imageStatus } from "../core/runtime-image.ts";
import { awaitsModel, living, type Snapshot, servingPods, wantedGateways } from "../core/snapshot.ts";
import type { Verdict } from "../core/world.ts";
import type { Observed } from "../observed.ts";
import { type Findings, lostRanks, verdicts } from "./conditions.ts";
import type { Decision } from "./decide.ts";
import type { Blocked } from "./pod-actions.ts";
import { impossible } from "./pod-repair.ts";
import { pastOperations } from "./progress.ts";
import type { Target } from "./ranks.ts";
import type { Scaling } from "./scale.ts";

/** Retry of refusals whose cause may vanish unnoticed, such as a quota. */
const refusedMs = 10_000;
/** Retry of a refused extra pod. */
const surgeMs = 30_000;
/** Pause after a spec with another model was accepted. */
const switchMs = 10;

/** What execution reports to the status and the next pass. */
export interface Executed {
  readonly scaling: Scaling | undefined;
  readonly createError: string;
  readonly failure: AppError | undefined;
  readonly remember: Pick<Memory, "greenRefused" | "surgeRefused" | "createError">;
}

export function statusOf({ facts, ranks, repair, progress, spec }: Decision, done: Executed): MoEDeploymentStatus {
  const { snapshot } = facts;
  const { target, floor } = ranks;
  return nextStatus({
    ...{ snapshot, target, floor },
    operation: progress.operation,
    rollout: progress.rollout.status,
    refusals: [...snapshot.refusals, ...ranks.refusals],
    blocked: target.blocked ?? repair.step.blocked,
    failures: repair.step.failures,
    failure: done.failure?.message ?? "",
    judgeError: spec.failure?.message ?? "",
    createError: done.createError || impossible(spec),
    scaling: done.scaling,
  });
}

interface Written {
  readonly status: MoEDeploymentStatus;
  /** Milliseconds until a delayed write is due. */
  readonly heldMs: number | undefined;
}

export function outcomeOf(observed: Observed, decision: Decision, done: Executed, { status, heldMs }: Written): Outcome {
  const { facts, spec, modelChange, delivery, answers, blueGreen, ranks, repair, progress } = decision;
  const { snapshot } = facts;
  const { failure } = done;
  const { memory } = observed;
  const deadline = status.operation?.deadline;
  const waits = [
    ...[ranks.target.settlesInMs, repair.step.againInMs, progress.rollout.againInMs, done.scaling?.againInMs, heldMs],
    deadline ? Date.parse(deadline) - snapshot.now.getTime() + 1 : undefined,
    observed.warmMs,
    snapshot.refusals.length > 0 || snapshot.conflicts.length > 0 || failure ? refusedMs : undefined,
    done.remember.surgeRefused ? surgeMs : undefined,
    done.remember.createError === memory.createError ? undefined : 1, // a deleted namesake's pods may have to give way
    (done.remember.greenRefused ?? memory.greenRefused) === memory.greenRefused ? undefined : 1, // the ranks change without it
    ...[delivery.againInMs, answers.againInMs, blueGreen.look?.againInMs],
    (modelChange.state === "Delivering" || modelChange.state === "Accepting") && spec.good ? switchMs : undefined,
  ].filter((ms): ms is number => ms !== undefined && ms > 0);
  return { ...(waits.length === 0 ? {} : { requeueAfterMs: Math.min(...waits) }), ...(failure ? { failure } : {}) };
}

export interface StatusInput {
  readonly snapshot: Snapshot;
  readonly target: Target;
  readonly refusals: readonly Refusal[];
  readonly blocked: Blocked | undefined;
  readonly operation: Operation | undefined;
  readonly rollout: RolloutStatus | undefined;
  /** The fewest ranks that hold all experts, where known. */
  readonly floor: Reckoned | undefined;
  readonly failures: readonly PodFailure[];
  /** The error of this pass; empty without one. */
  readonly failure: string;
  /** Why the spec could be neither accepted nor refused; empty when it was judged. */
  readonly judgeError: string;
  /** Why a missing rank cannot be created; empty when it can. */
  readonly createError: string;
  /** Undefined without autoscaling. */
  readonly scaling?: { readonly verdict: Verdict; readonly status: AutoscaleStatus } | undefined;
}

const lostRanksMax = 64;

function workerSelector(name: string): string {
  return `${labels.deployment}=${name},${labels.component}=worker`;
}

export function nextStatus(input: StatusInput): MoEDeploymentStatus {
  const { snapshot, target, refusals, blocked, operation, failure, failures, judgeError, createError } = input;
  const { deployment, now, view } = snapshot;
  const old = deployment.status;
  const history = pastOperations(snapshot, target.ranks, operation);
  const findings: Findings = {
    snapshot,
    ranks: target.ranks,
    refusals,
    blocked,
    operation,
    pendingReplicas: target.pending?.replicas,
    failure,
    failures,
    judgeError,
    createError,
    scaling: input.scaling?.verdict,
  };
  const pods = living(snapshot.pods);
  const serving = servingPods(snapshot);
  const all = verdicts(findings);
  const byRole = rolesText(view?.members);
  const desiredRanks = awaitsModel(snapshot) ? 0 : target.ranks;
  const { generation, name, namespace } = deployment.metadata;
  return {
    observedGeneration: generation,
    replicas: pods.length,
    readyReplicas: pods.filter((pod) => pod.ready).length,
    availableReplicas: serving.length,
    ready: `${serving.length}/${desiredRanks}`,
    updatedReplicas: pods.filter((pod) => pod.templateHash === snapshot.templateHash).length,
    selector: workerSelector(name),
    expertParallel: {
      desiredRanks,
      activeRanks: serving.length,
      ...(byRole === undefined ? {} : { roles: byRole }),
      lostRanks: serving.length < target.ranks ? lostRanks(findings).slice(0, lostRanksMax) : [],
      ...(input.floor ? { leastRanks: input.floor.count, leastRanksReason: input.floor.reason } : {}),
      ...(failures.length > 0 ? { podFailures: [...failures] } : {}),
      ...(target.pending ? { pendingReplicas: target.pending.replicas, pendingSince: rfc3339(target.pending.since) } : {}),
    },
    ...(operation ? { operation } : {}),
    ...(history.length > 0 ? { history: [...history] } : {}),
    ...(input.rollout ? { rollout: input.rollout } : {}),
    ...(input.scaling && Object.keys(input.scaling.status).length > 0 ? { autoscale: input.scaling.status } : {}),
    ...known("runtimeImage", snapshot.runtimeImage && imageStatus(snapshot.runtimeImage), old.runtimeImage),
    ...known("placement", view?.placement, old.placement),
    ...known("telemetry", view?.telemetry, old.telemetry),
    ...(modelStatus(snapshot) ?? (old.model ? { model: old.model } : {})),
    ...downloadStatus(snapshot),
    gateway: gatewayStatus(snapshot),
    address: { url: `${deployment.spec.gateway.tls ? "https" : "http"}://${name}.${namespace}.svc:${deployment.spec.service.port}` },
    conditions: moeDeploymentConditions.flatMap((type) => {
      const verdict = all[type];
      return verdict ? [withTransition(old.conditions ?? [], { type, ...verdict, observedGeneration: generation }, now)] : [];
    }),
  };
}

function gatewayStatus(snapshot: Snapshot): MoEDeploymentStatus["gateway"] {
  const { ready, unscaled } = snapshot.gateway;
  const counts = { replicas: wantedGateways(snapshot), readyReplicas: ready };
  return unscaled === "" ? counts : { ...counts, autoscalerProblem: unscaled };
}

/**
 * The new value, or the last one while the rebalance plane has none. An empty object is never written: applied over a filled one it would
 * become null.
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

/** A finished download keeps its figures; a model that is not downloaded has none. */
function downloadStatus({ deployment, delivery }: Snapshot): Pick<MoEDeploymentStatus, "download"> {
  const { model } = deployment.spec;
  if (model.cache === undefined) return {};
  const { uri } = model;
  const before = deployment.status.download?.uri === uri ? deployment.status.download : undefined;
  const { pending } = delivery;
  const { report } = pending ?? {};
  const revision = report?.revision ?? delivery.revision ?? before?.revision;
  const known = { uri, ...(revision !== undefined && { revision }) };
  if (!pending) return { download: { ...known, phase: "Done", progress: "Done" } };
  if (!report) return { download: { ...known, phase: "Waiting", progress: pending.reason } };
  const { phase, doneBytes, totalBytes, bytesPerSecond } = report;
  const progress = phase === "Downloading" ? shareText({ bytes: doneBytes, of: totalBytes }) : phase;
  return { download: { ...known, phase, progress, doneBytes, totalBytes, bytesPerSecond } };
}
