import assert from "node:assert/strict";
import { test } from "node:test";
import type { ProcessEnd } from "../../../crds/process-end.ts";
import { deployment, gatewayFacts, member, now, pod, snapshot, view } from "../../../test/kit/deployment/deployment.ts";
import { endRefusals, endsOf } from "../core/ends.ts";
import type { PodFacts, Snapshot } from "../core/snapshot.ts";
import { currentOperation } from "./progress.ts";
import { nextStatus, type StatusInput } from "./status.ts";

type Want = Partial<Record<string, string>>;
const statusOf = (more: Partial<Snapshot>, ranks = 2, input: Partial<StatusInput> = {}) =>
  nextStatus({
    snapshot: snapshot(more),
    target: { ranks, pending: undefined, settlesInMs: undefined, blocked: undefined },
    refusals: [],
    blocked: undefined,
    operation: currentOperation({ snapshot: snapshot(more), ranks, actions: [], blocked: input.blocked, note: "" }),
    rollout: undefined,
    floor: undefined,
    failure: "",
    failures: [],
    judgeError: "",
    createError: "",
    ...input,
  });
const said = (status: ReturnType<typeof statusOf>): Want =>
  Object.fromEntries((status.conditions ?? []).map((one) => [one.type, `${one.status} ${one.reason}`]));
const both = [pod(0), pod(1)];
const members = view({ members: [member(0), member(1)] });
const before = (status: object, spec: object = {}) => deployment(spec, { expertParallel: { desiredRanks: 2, activeRanks: 2, ...status } });
const during = (type: string, from: number, times: { startTime: string; deadline: string }) => {
  const operation = { id: "it-1", type, phase: "Waiting", from: { ranks: from }, to: { ranks: 2 }, message: "", ...times };
  return deployment({}, { expertParallel: { desiredRanks: 2, activeRanks: 2 }, operation });
};

const end = (code: string, message: string): ProcessEnd => ({ code, message });
const ended = (code: string, message: string): Partial<PodFacts> => ({
  ...{ ready: false, restarts: 1, problem: `CrashLoopBackOff: ${code}: ${message}`, end: end(code, message) },
});

/** The autoscaler's word on a deployment that nobody asks. */
const rests = { verdict: { status: "True", reason: "ScaledToZero", message: "at zero" }, status: {} } as const;

const cases: Record<string, { world: Partial<Snapshot>; ranks?: number; input?: Partial<StatusInput>; want: Want }> = {
  "all ranks serve": {
    world: { pods: both, view: members },
    want: {
      Ready: "True AllReplicasAvailable",
      Available: "True MinimumReplicasAvailable",
      Progressing: "False Converged",
      Degraded: "False AsExpected",
      SpecAccepted: "True Accepted",
    },
  },
  "pods are starting": {
    world: { pods: [pod(0, { ready: false }), pod(1, { ready: false })], view: view() },
    want: { Ready: "False RanksNotReady", Available: "False BelowMinServing", Progressing: "True Starting", Degraded: "False AsExpected" },
  },
  "a rank was lost": {
    world: { deployment: before({}), pods: [pod(0), pod(1, { ready: false })], view: members },
    want: {
      Ready: "False RanksNotReady",
      Available: "True MinimumReplicasAvailable",
      Progressing: "True Repairing",
      Degraded: "True RanksLost",
    },
  },
  "a rank on a cordoned node waits for its replacement": {
    world: { deployment: before({}), pods: [pod(0), pod(1, { mustGo: "node b is cordoned" }), pod(2, { ready: false })], view: members },
    want: { Ready: "True AllReplicasAvailable", Progressing: "True HandingOver", Degraded: "False AsExpected" },
  },
  "an evicted rank hands over before another serves": {
    world: { deployment: before({}), pods: [pod(0), pod(1, { terminating: true }), pod(2, { ready: false })], view: members },
    want: { Ready: "False RanksNotReady", Progressing: "True HandingOver", Degraded: "False AsExpected" },
  },
  "and once it is gone it is missing like any other": {
    world: {
      deployment: during("Handover", 2, { startTime: "2026-03-01T09:59:00Z", deadline: "2026-03-01T10:59:00Z" }),
      pods: [pod(0), pod(2, { ready: false })],
      view: members,
    },
    want: { Progressing: "True Repairing", Degraded: "True RanksLost" },
  },
  "a roll has one pod more and is no shrink": {
    world: { deployment: before({}), pods: [pod(0, { templateHash: "old" }), pod(1), pod(2, { ready: false })], view: members },
    want: { Ready: "True AllReplicasAvailable", Progressing: "True RollingOut", Degraded: "False AsExpected" },
  },
  "there is no room for a replacement": {
    world: { deployment: before({}), pods: [pod(0), pod(1, { mustGo: "node b is cordoned" })], view: members },
    input: { blocked: { reason: "NoCapacityForReplacement", message: "no room" } },
    want: { Ready: "True AllReplicasAvailable", Progressing: "False NoCapacityForReplacement" },
  },
  "a rank is ready but no member yet": {
    world: { pods: both, view: view({ members: [member(0), member(1, { active: false })] }) },
    want: { Ready: "False RanksNotReady" },
  },
  "a new leader has not reached the workers yet": {
    world: { pods: both, view: view({ members: [member(0, { active: false, bootId: "" }), member(1, { active: false, bootId: "" })] }) },
    want: { Ready: "True AllReplicasAvailable", Degraded: "False AsExpected" },
  },
  "no gateway is ready": {
    world: { pods: both, view: members, gateway: gatewayFacts({ ready: 0, message: "quota" }) },
    want: { Ready: "False NoGateway", Available: "False NoGateway" },
  },
  "no gateway is ready of those that an autoscaler wants": {
    world: { pods: both, view: members, gateway: gatewayFacts({ ready: 0, replicas: 4 }) },
    want: { Ready: "False NoGateway", Available: "False NoGateway" },
  },
  "somebody has scaled the gateways to none, which are left to him": {
    world: { pods: both, view: members, gateway: gatewayFacts({ ready: 0, replicas: 0 }) },
    want: { Ready: "True AllReplicasAvailable", Available: "True MinimumReplicasAvailable" },
  },
  "the Deployment of the gateways is not seen yet": {
    world: { pods: both, view: members, gateway: gatewayFacts({ ready: 0, replicas: undefined }) },
    want: { Ready: "False NoGateway", FieldConflict: "False NoConflict" },
  },
  "others manage a field of an owned object": {
    world: { pods: both, view: members, conflicts: ["Service moe stays as it is: .spec.ports is managed by other-team"] },
    want: { FieldConflict: "True ManagedByOthers", SpecAccepted: "True Accepted", Ready: "True AllReplicasAvailable" },
  },
  "it is suspended": {
    world: { deployment: deployment({ suspend: true }) },
    ranks: 0,
    want: { Ready: "False Suspended", Available: "False Suspended", Progressing: "False Converged" },
  },
  "it is scaled to zero": {
    world: { deployment: deployment({ replicas: 0 }) },
    ranks: 0,
    want: { Ready: "False ScaledToZero", Available: "False ScaledToZero" },
  },
  "it rests at zero, and gateways hold what comes": {
    world: { deployment: deployment({ replicas: 0 }) },
    ranks: 0,
    input: { scaling: rests },
    want: { Ready: "True ScaledToZero", Available: "True ScaledToZero", ScalingActive: "True ScaledToZero" },
  },
  "it rests at zero, and no gateway would hold what comes": {
    world: { deployment: deployment({ replicas: 0 }), gateway: gatewayFacts({ ready: 0 }) },
    ranks: 0,
    input: { scaling: rests },
    want: { Ready: "False ScaledToZero", Available: "False ScaledToZero" },
  },
  "the claim is missing": {
    world: { claim: "Missing" },
    want: { Ready: "False ModelClaimMissing", ModelAvailable: "False ClaimNotFound" },
  },
  "the spec is refused": {
    world: { pods: both, view: members },
    input: { refusals: [{ reason: "InsufficientExpertMemory", message: "experts need 2Gi" }] },
    want: {
      SpecAccepted: "False InsufficientExpertMemory",
      Ready: "False InsufficientExpertMemory",
      Available: "True MinimumReplicasAvailable",
    },
  },
  "ranks say why they cannot start with this spec": {
    world: { pods: [0, 1].map((rank) => pod(rank, ended("KvPoolTooSmall", "spec.runtime.kvPool 256Mi holds no request"))), view: view() },
    input: { refusals: endRefusals([end("KvPoolTooSmall", "spec.runtime.kvPool 256Mi holds no request")]) },
    want: { SpecAccepted: "False KvPoolTooSmall", Ready: "False KvPoolTooSmall", Degraded: "True WorkerCrashing" },
  },
  "ranks say why they cannot open the model": {
    world: { pods: [0, 1].map((rank) => pod(rank, ended("ModelNotFound", "/models/x: no such folder"))), view: view() },
    want: { SpecAccepted: "True Accepted", ModelAvailable: "False ModelNotFound", Ready: "False RanksNotReady" },
  },
  "the spec could not be judged": {
    world: { pods: both, view: members },
    input: { judgeError: "failed calling webhook" },
    want: { SpecAccepted: "Unknown NotApplied", Ready: "True AllReplicasAvailable" },
  },
  "a missing rank cannot be made": {
    world: { deployment: before({}), pods: [pod(0)], view: members },
    input: { createError: "rank 1: exceeded quota" },
    want: { Degraded: "True ReplacementImpossible", Ready: "False RanksNotReady", Available: "True MinimumReplicasAvailable" },
  },
  "a gateway cannot be made": {
    world: {
      deployment: deployment({ gateway: { replicas: 2 } }),
      pods: both,
      view: members,
      gateway: gatewayFacts({ replicas: 2, message: "exceeded quota", createError: "exceeded quota" }),
    },
    want: { Degraded: "True ReplacementImpossible", Available: "True MinimumReplicasAvailable" },
  },
  "gateways of a roll do not come up while the old ones serve": {
    world: { pods: both, view: members, gateway: gatewayFacts({ ready: 1, message: "moe-gateway-x: CrashLoopBackOff" }) },
    want: { Degraded: "True GatewayFailing", Ready: "True AllReplicasAvailable" },
  },
  "a shrink is blocked": {
    world: { pods: both, view: members },
    input: { blocked: { reason: "ScaleDownBlocked", message: "experts need 2Gi" } },
    want: { Progressing: "False ScaleDownBlocked", Ready: "True AllReplicasAvailable" },
  },
  "replicas is settling": {
    world: { pods: both, view: members },
    input: { target: { ranks: 2, pending: { replicas: 4, since: now }, settlesInMs: 5000, blocked: undefined } },
    want: { Progressing: "True Settling" },
  },
  "an operation is past its deadline": {
    world: {
      deployment: during("Grow", 1, { startTime: "2026-03-01T09:00:00Z", deadline: "2026-03-01T09:15:00Z" }),
      pods: [pod(0), pod(1, { ready: false, problem: "ImagePullBackOff: no such image" })],
      view: members,
    },
    want: { Progressing: "False DeadlineExceeded" },
  },
  "experts are loaded on demand": {
    world: { pods: both, view: view({ members: [member(0), member(1)], unhostedExperts: 3, expertsWithoutRank: 3 }) },
    want: { Degraded: "True ExpertsUnhosted" },
  },
  "a restarted rank has yet to load what no other holds": {
    world: { pods: both, view: view({ members: [member(0), member(1)], unhostedExperts: 3, loadingRanks: [1] }) },
    want: { Degraded: "True ExpertsUnhosted" },
  },
};
test("the status counts the gateways that are wanted, by the spec first", () => {
  const wanted = (spec: object, replicas: number | undefined) =>
    statusOf({ deployment: deployment(spec), gateway: gatewayFacts({ replicas }) }).gateway;
  assert.deepEqual(wanted({}, 4), { replicas: 4, readyReplicas: 1 });
  assert.deepEqual(wanted({ gateway: { autoscale: { minReplicas: 2, maxReplicas: 5 } } }, 4), { replicas: 4, readyReplicas: 1 });
  assert.deepEqual(wanted({ gateway: { replicas: 2 } }, 4), { replicas: 2, readyReplicas: 1 });
  assert.deepEqual(wanted({}, undefined), { replicas: 1, readyReplicas: 1 });
  assert.deepEqual(wanted({ suspend: true }, 4), { replicas: 0, readyReplicas: 1 });
  const { gateway } = statusOf({ gateway: gatewayFacts({ unscaled: "FailedGetResourceMetric: no metrics" }) });
  assert.equal(gateway?.autoscalerProblem, "FailedGetResourceMetric: no metrics");
});

for (const [sentence, { world, ranks, input, want }] of Object.entries(cases)) {
  test(`conditions when ${sentence}`, () => {
    const found = said(statusOf(world, ranks, input));
    for (const [type, text] of Object.entries(want)) assert.equal(found[type], text, type);
  });
}

test("the status says how many ranks serve of those wanted, as kubectl shows it", () => {
  const pods = [pod(0), pod(1), pod(2, { ready: false })];
  assert.equal(statusOf({ pods, view: view({ members: [member(0), member(1), member(2)] }) }, 3).ready, "2/3");
});

test("Ready says why a rank does not serve", () => {
  const { conditions } = statusOf({ pods: [pod(0), pod(1, { ready: false, problem: "ImagePullBackOff: no such image" })], view: members });
  assert.match(conditions?.[0]?.message ?? "", /1 of 2 ranks serve: moe-1-abcde: ImagePullBackOff: no such image/);
});

test("Ready says why a pod could not be made, and a pod that is broken comes first", () => {
  const failure = 'rank 1: pods "moe-1" is forbidden: exceeded quota';
  const message = (pods: Snapshot["pods"]) => statusOf({ pods, view: members }, 2, { failure }).conditions?.[0]?.message;
  assert.equal(message([pod(0)]), `1 of 2 ranks serve: ${failure}`);
  assert.match(message([pod(0, { ready: false, problem: "ImagePullBackOff" })]) ?? "", /moe-0-abcde: ImagePullBackOff/);
});

test("Ready says when a rank whose pods keep ending is made again", () => {
  const failures = [{ rank: 1, count: 3, reason: "OutOfcpu", pod: "moe-1-x", retryTime: "2026-03-01T10:00:02Z" }];
  const status = statusOf({ pods: [pod(0)], view: members }, 2, { failures });
  assert.match(
    status.conditions?.[0]?.message ?? "",
    /rank 1: 3 pods in a row ended \(OutOfcpu\), the next is made at 2026-03-01T10:00:02Z/,
  );
  assert.deepEqual(status.expertParallel?.podFailures, failures);
});

test("an operation keeps its start and deadline until it is another one", () => {
  const first = statusOf({ pods: [pod(0, { ready: false })], view: view() });
  const operation = first.operation;
  assert.deepEqual([operation?.type, operation?.startTime, operation?.deadline], ["Start", "2026-03-01T10:00:00Z", "2026-03-01T10:15:00Z"]);
  const later = new Date(now.getTime() + 60_000);
  const second = statusOf({ now: later, deployment: deployment({}, first), pods: [pod(0), pod(1, { ready: false })], view: members });
  assert.deepEqual([second.operation?.id, second.operation?.startTime], [operation?.id, "2026-03-01T10:00:00Z"]);
  const third = statusOf({ deployment: deployment({}, second), pods: both, view: members });
  assert.equal(third.operation, undefined);
  assert.deepEqual(
    third.history?.map(({ id, result }) => [id, result]),
    [[operation?.id, "Done"]],
  );
});

test("where gateways that check tokens do not start, an image that may be too old to is named, and none that is not", () => {
  const message = (spec: object, pinned: string) => {
    const gateway = gatewayFacts({ ready: 1, message: "moe-gateway-x: CrashLoopBackOff" });
    const runtimeImage = { pinned, offered: "runtime:2", own: undefined };
    const { conditions } = statusOf({ deployment: deployment(spec), pods: both, view: members, gateway, runtimeImage });
    return conditions?.find(({ type }) => type === "Degraded")?.message ?? "";
  };
  const jwt = { gateway: { jwt: { issuer: "https://id.test", audience: "moe" } } };
  assert.match(message(jwt, "runtime:1"), /^moe-gateway-x: CrashLoopBackOff; spec\.gateway\.jwt: .*runtime:1 may be one/);
  assert.equal(message(jwt, "runtime:2"), "moe-gateway-x: CrashLoopBackOff");
  assert.equal(message({}, "runtime:1"), "moe-gateway-x: CrashLoopBackOff");
});

test("a condition's transition time moves with its status only", () => {
  const first = statusOf({ pods: both, view: members });
  const later = new Date(now.getTime() + 60_000);
  const second = statusOf({ now: later, deployment: deployment({}, first), pods: [pod(0), pod(1, { ready: false })], view: members });
  const time = (status: typeof first, type: string) => status.conditions?.find((one) => one.type === type)?.lastTransitionTime;
  assert.equal(time(second, "SpecAccepted"), "2026-03-01T10:00:00Z");
  assert.equal(time(second, "Ready"), "2026-03-01T10:01:00Z");
});

test("a new leader repeats what the former said of telemetry until it can know better, and never writes an empty object", () => {
  const stale = { status: "False", reason: "NATSUnavailable", message: "NATS: Connecting" } as const;
  const old = statusOf({ pods: both, view: members });
  const world = {
    deployment: deployment({}, old),
    pods: both,
    view: view({ members: [member(0), member(1)], telemetryFresh: stale, placement: {} }),
  };
  const warm = statusOf({ ...world, warmingUp: true });
  assert.equal(said(warm).TelemetryFresh, "True Fine");
  assert.deepEqual(warm.placement, { epoch: 1 });
  assert.equal(said(statusOf(world)).TelemetryFresh, "False NATSUnavailable");
});

test("only pods of the template in effect say what is wrong with it, and of many that end alike one is told", () => {
  const crashed = [0, 1].map((rank) => pod(rank, ended("CodecNotFound", `rank ${rank}: holds no q4_0 experts`)));
  const leaving = pod(2, { ...ended("KvPoolTooSmall", "kvPool"), terminating: true });
  const other = pod(3, { ...ended("InsufficientMemory", "above"), templateHash: "old" });
  const unlike = pod(4, ended("ECONNRESET", "socket hang up"));
  const found = endRefusals(endsOf(snapshot({ pods: [...crashed, leaving, other, unlike] })));
  assert.deepEqual(found, [{ reason: "CodecNotFound", message: "rank 0: holds no q4_0 experts" }]);
  const served = { weightServerEnds: [end("CodecNotFound", "the weight server")] };
  assert.deepEqual(endRefusals(endsOf(snapshot(served))), [{ reason: "CodecNotFound", message: "the weight server" }]);
});
