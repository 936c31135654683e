// The conditions of a MoEDeployment: for each, the first check in order that decides wins. Pure.

import type { MoEDeploymentConditionType, PodFailure } from "../../../crds/moe-deployment-status.ts";
import type { Operation } from "../../../crds/operation.ts";
import type { Refusal } from "../../kube/refusal-text.ts";
import { endsOf, modelVerdict } from "../core/ends.ts";
import { orphansLeft } from "../core/orphans.ts";
import { rolesVerdict } from "../core/roles.ts";
import { type Hold, heldModel, rollHold } from "../core/rollout.ts";
import { imageVerdict } from "../core/runtime-image.ts";
import { living, type Snapshot, servingPods, wantedGateways } from "../core/snapshot.ts";
import type { MemberView, Verdict } from "../core/world.ts";
import { isAtZero } from "./autoscale/zero.ts";
import { type Blocked, freeRanks } from "./pod-actions.ts";
import { routeVerdict } from "./route.ts";

export interface Findings {
  readonly snapshot: Snapshot;
  readonly ranks: number;
  readonly refusals: readonly Refusal[];
  readonly blocked: Blocked | undefined;
  readonly operation: Operation | undefined;
  readonly pendingReplicas: number | undefined;
  readonly failure: string;
  /** Why the spec could be neither accepted nor refused; empty when it was judged. */
  readonly judgeError: string;
  /** Why a missing rank cannot be created; empty when it can. */
  readonly createError: string;
  readonly failures: readonly PodFailure[];
  /** Undefined without autoscaling. */
  readonly scaling?: Verdict | undefined;
}

/** An undefined condition is not written. */
type Verdicts = Readonly<Record<MoEDeploymentConditionType, Verdict | undefined>>;

const yes = (reason: string, message: string): Verdict => ({ status: "True", reason, message });
const no = (reason: string, message: string): Verdict => ({ status: "False", reason, message });
const unknown = (reason: string, message: string): Verdict => ({ status: "Unknown", reason, message });

export function verdicts(findings: Findings): Verdicts {
  const { view, delivery } = findings.snapshot;
  const { pending } = delivery;
  const specAccepted = accepted(findings);
  const availability = available(findings);
  return {
    SpecAccepted: specAccepted,
    FieldConflict: fieldConflict(findings),
    Available: availability,
    Ready: ready(findings, specAccepted, availability),
    Progressing: progressing(findings),
    Degraded: degraded(findings),
    ModelAvailable: pending ? modelAvailable(findings) : lastKnown(findings, "ModelAvailable", modelAvailable(findings)),
    Reproducible: lastKnown(findings, "Reproducible", view?.reproducible ?? unknown("NotObserved", "no worker was reached yet")),
    TelemetryFresh: lastKnown(findings, "TelemetryFresh", view?.telemetryFresh ?? unknown("NotObserved", "no worker was reached yet")),
    PlacementBalanced: lastKnown(
      findings,
      "PlacementBalanced",
      view?.placementBalanced ?? unknown("NotObserved", "no worker was reached yet"),
    ),
    ExpertsOversubscribed: oversubscribed(findings),
    RolesServed: rolesServed(findings),
    RuntimeUpToDate: upToDate(findings),
    ScalingActive: findings.scaling?.status === "Unknown" ? lastKnown(findings, "ScalingActive", findings.scaling) : findings.scaling,
    GatewayRouted: routeVerdict(findings.snapshot),
  };
}

/** A new leader still opens its sessions, so that the former leader's condition stands until then. */
function lastKnown({ snapshot }: Findings, type: MoEDeploymentConditionType, now: Verdict): Verdict {
  const before = snapshot.deployment.status.conditions?.find((condition) => condition.type === type);
  return snapshot.warmingUp && before && now.status !== "True"
    ? { status: before.status, reason: before.reason, message: before.message }
    : now;
}

function accepted({ refusals, judgeError, snapshot }: Findings): Verdict {
  const first = refusals[0];
  if (first) return no(first.reason, refusals.map((one) => one.message).join("; "));
  const { pending } = snapshot.delivery;
  if (pending) return unknown("ModelPending", `the spec takes effect with its model: ${pending.message}`);
  const { green } = snapshot;
  if (green?.holds) return unknown("GreenStarting", `the spec takes effect when its green deployment serves: ${green.message}`);
  const hold = heldModel(snapshot);
  if (hold !== undefined) return unknown("Held", `the spec takes effect as a whole: ${hold}`);
  if (judgeError !== "") return unknown("NotApplied", `it is tried again: ${judgeError}`);
  return yes(
    "Accepted",
    snapshot.conflicts.length > 0 ? "every field is in effect, except where FieldConflict says so" : "every field is in effect",
  );
}

function fieldConflict({ snapshot: { conflicts } }: Findings): Verdict {
  return conflicts.length > 0
    ? yes("ManagedByOthers", conflicts.join("; "))
    : no("NoConflict", "nobody else manages a field that the operator sets");
}

const switchingModel = ({ deployment: { spec } }: Snapshot): Verdict =>
  no("SwitchingModel", `the ranks of another model stop, those of ${spec.model.uri} start once all have`);

function available(findings: Findings): Verdict {
  const { snapshot, ranks } = findings;
  const { spec } = snapshot.deployment;
  if (snapshot.green?.front === "Green") return yes("GreenServes", snapshot.green.message);
  if (snapshot.switching) return switchingModel(snapshot);
  if (spec.suspend) return no("Suspended", "spec.suspend is true");
  const isHolding = findings.scaling !== undefined && isAtZero(findings.scaling) && snapshot.gateway.ready > 0;
  // Requests wait for the ranks that they bring back.
  if (ranks === 0 && isHolding) return yes("ScaledToZero", `gateways hold what comes: ${findings.scaling?.message}`);
  if (ranks === 0) return no("ScaledToZero", "no ranks are wanted");
  const serving = servingPods(snapshot).length;
  const least = Math.max(1, spec.failurePolicy.minServingReplicas);
  if (serving < least) return no("BelowMinServing", `${serving} of at least ${least} ranks serve`);
  if (wantedGateways(snapshot) > 0 && snapshot.gateway.ready === 0)
    return no("NoGateway", `no gateway is ready${suffix(snapshot.gateway.message)}`);
  return yes("MinimumReplicasAvailable", `${serving} ranks serve`);
}

function ready(findings: Findings, specAccepted: Verdict, availability: Verdict): Verdict {
  const { snapshot, ranks } = findings;
  if (specAccepted.status === "False") return no(specAccepted.reason, specAccepted.message);
  if (availability.status === "True" && availability.reason === "ScaledToZero") return availability;
  if (availability.status !== "True" && ["Suspended", "SwitchingModel", "ScaledToZero", "NoGateway"].includes(availability.reason))
    return availability;
  if (snapshot.switching) return switchingModel(snapshot);
  if (snapshot.claim === "Missing") return no("ModelClaimMissing", modelAvailable(findings).message);
  const serving = servingPods(snapshot).length;
  const wanted = ranks;
  const { pending } = snapshot.delivery;
  if (pending && serving < wanted) return no(pending.reason, `${serving} of ${wanted} ranks serve; the model: ${pending.message}`);
  if (serving < wanted) return no("RanksNotReady", `${serving} of ${wanted} ranks serve${suffix(whyNot(findings))}`);
  if (availability.status !== "True") return availability;
  return yes("AllReplicasAvailable", `${serving} of ${wanted} ranks serve`);
}

function whyNot({ snapshot, failure, failures }: Findings): string {
  const pods = living(snapshot.pods);
  const broken = pods.find((pod) => pod.problem !== "");
  if (broken) return `${broken.name}: ${broken.problem}`;
  if (failure !== "") return failure;
  const [end] = snapshot.refusedStart?.ends ?? [];
  if (end) return `${end.code}: ${end.message}`;
  if (snapshot.delivery.away !== "") return snapshot.delivery.away;
  const waiting = failures.find((one) => one.count > 1 && !pods.some((pod) => pod.rank === one.rank));
  if (waiting)
    return `rank ${waiting.rank}: ${waiting.count} pods in a row ended (${waiting.reason}), the next is made at ${waiting.retryTime}`;
  const members = new Map<string, MemberView>((snapshot.view?.members ?? []).map((member) => [member.podUid, member]));
  for (const pod of pods) {
    const reason = members.get(pod.uid)?.notReadyReason ?? "";
    if (!pod.ready && reason !== "") return `rank ${pod.rank}: ${reason}`;
  }
  return "";
}

function progressing(findings: Findings): Verdict {
  const { operation, blocked, snapshot, pendingReplicas, ranks } = findings;
  if (blocked) return no(blocked.reason, blocked.message);
  if (pendingReplicas !== undefined)
    return yes("Settling", `replicas ${pendingReplicas} is acted on once it stood still for ${snapshot.deployment.spec.elasticity.settle}`);
  const left = orphansLeft(snapshot);
  if (!operation && left !== "") return yes("TakingOver", left);
  const { pending } = snapshot.delivery;
  if (!operation && pending && !snapshot.deployment.spec.suspend) return yes(pending.reason, pending.message);
  // PlacementBalanced reports moves of experts.
  if (!operation || operation.type === "Rebalance") {
    const hold = rollHold(snapshot, ranks);
    return hold ? no(holdReason[hold.phase], hold.message) : no("Converged", "nothing is to be done");
  }
  if (snapshot.now.getTime() > Date.parse(operation.deadline)) {
    return no(
      "DeadlineExceeded",
      `${operation.type} has taken longer than ${snapshot.deployment.spec.elasticity.operationTimeout}${suffix(whyNot(findings))}`,
    );
  }
  return yes(progressReason[operation.type], operation.message ?? "");
}

const holdReason: Readonly<Record<Hold["phase"], string>> = {
  Paused: "RolloutPaused",
  Baking: "RollingOut",
  Partitioned: "RolloutPartitioned",
  OnDelete: "RolloutOnDelete",
};
const progressReason: Readonly<Record<Exclude<Operation["type"], "Rebalance">, string>> = {
  Start: "Starting",
  Grow: "Scaling",
  Shrink: "Scaling",
  Roll: "RollingOut",
  Handover: "HandingOver",
  Repair: "Repairing",
  Stop: "Stopping",
};

function degraded(findings: Findings): Verdict {
  const { snapshot, operation } = findings;
  const irreplaceable = notReplaced(findings);
  if (irreplaceable !== "") return yes("ReplacementImpossible", irreplaceable);
  const lost = lostRanks(findings);
  if (operation?.type === "Repair" && lost.length > 0) {
    return yes("RanksLost", `ranks ${lost.slice(0, 16).join(", ")} do not serve; their tokens go to the others${suffix(whyNot(findings))}`);
  }
  // Ranks of a start load what nobody misses yet.
  const { expertsWithoutRank = 0, loadingRanks = [] } = (operation?.type !== "Start" && snapshot.view) || {};
  if (expertsWithoutRank > 0)
    return yes("ExpertsUnhosted", `${expertsWithoutRank} experts are on no rank that is there: they are loaded on demand`);
  if (loadingRanks.length > 0) {
    const ranks = loadingRanks.slice(0, 16).join(", ");
    return yes("ExpertsUnhosted", `ranks ${ranks} load their experts; those that no other rank holds are loaded on demand until then`);
  }
  const crashing = living(snapshot.pods).find((pod) => pod.problem.startsWith("CrashLoopBackOff"));
  if (crashing) return yes("WorkerCrashing", `${crashing.name}: ${crashing.problem}`);
  const gateways = failingGateways(snapshot);
  if (gateways !== "") return yes("GatewayFailing", gateways);
  return no("AsExpected", "no rank is missing and every expert has a place");
}

/** Why new gateways do not come up while old ones may serve; empty when nothing is known. */
function failingGateways({ gateway, deployment: { spec }, runtimeImage }: Snapshot): string {
  if (!/CrashLoopBackOff|ProgressDeadlineExceeded/.test(gateway.message)) return "";
  const { own, pinned, offered } = runtimeImage ?? {};
  if (!spec.gateway.jwt || (own === undefined && pinned === offered)) return gateway.message;
  const image = own ?? pinned;
  return `${gateway.message}; spec.gateway.jwt: gateways of an image that cannot check tokens do not start, and ${image} may be one: roll to a newer`;
}

/** Why missing ranks stay missing; empty while they are being created. */
function notReplaced({ snapshot, ranks, createError }: Findings): string {
  const { gateway, pods } = snapshot;
  const missing = freeRanks(living(pods), ranks);
  if (createError !== "" && missing.length > 0)
    return `ranks ${missing.slice(0, 16).join(", ")} have no pod and none can be made: ${createError}`;
  const short = gateway.ready < wantedGateways(snapshot);
  return short && gateway.createError !== "" ? `${gateway.ready} gateways are ready and no more can be made: ${gateway.createError}` : "";
}

/** Ranks below the desired number without a serving pod. */
export function lostRanks({ snapshot, ranks }: Findings): number[] {
  const serving = new Set(servingPods(snapshot).map((pod) => pod.rank));
  const known = living(snapshot.pods).flatMap((pod) => (pod.terminating ? [] : pod.rank));
  const expected = known.length >= ranks ? known : [...known, ...Array.from({ length: ranks }, (_, rank) => rank)];
  return [...new Set(expected)]
    .filter((rank) => !serving.has(rank))
    .sort((a, b) => a - b)
    .slice(0, ranks);
}

function oversubscribed(findings: Findings): Verdict | undefined {
  const { view, deployment } = findings.snapshot;
  if (deployment.spec.experts.oversubscription !== "Allow") return undefined;
  return lastKnown(findings, "ExpertsOversubscribed", view?.expertsOversubscribed ?? unknown("NotObserved", "no worker was reached yet"));
}

function rolesServed(findings: Findings): Verdict | undefined {
  const { view, deployment } = findings.snapshot;
  const verdict = rolesVerdict(deployment.spec.roles, view?.members);
  return verdict && lastKnown(findings, "RolesServed", verdict);
}

function upToDate({ snapshot: { runtimeImage, deployment } }: Findings): Verdict {
  return runtimeImage ? imageVerdict(runtimeImage, deployment.metadata) : unknown("NotChosen", "no spec is in effect yet");
}

function modelAvailable({ snapshot, ranks }: Findings): Verdict {
  if (snapshot.claim === "Missing") {
    return no(
      "ClaimNotFound",
      snapshot.deployment.spec.model.cache === undefined
        ? `spec.model.uri: ${snapshot.deployment.spec.model.uri}: the namespace has no such PersistentVolumeClaim; create it and import the model into it`
        : `spec.model.cache.persistentVolumeClaim.claimName: ${snapshot.deployment.spec.model.cache.persistentVolumeClaim?.claimName}: the namespace has no such PersistentVolumeClaim; create it, with room for the download and the store`,
    );
  }
  const { pending } = snapshot.delivery;
  if (pending) return no(pending.reason, pending.message);
  const unusable = servingPods(snapshot).length < ranks ? modelVerdict(endsOf(snapshot)) : undefined;
  if (unusable) return unusable;
  if (snapshot.delivery.away !== "" && servingPods(snapshot).length < ranks) return no("WeightServerNotReady", snapshot.delivery.away);
  return snapshot.view?.modelAvailable ?? unknown("NotOpened", "no worker has opened the model yet");
}

const suffix = (text: string): string => (text === "" ? "" : `: ${text}`);
