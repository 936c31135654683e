// The facts that are read from pods and nodes.
import assert from "node:assert/strict";
import { test } from "node:test";
import { labels } from "../../../crds/common.ts";
import type { KubeObject } from "../../kube/kube.ts";
import { gatewayFacts, nodeHealth, podFacts } from "./pod-facts.ts";

const node = (name: string, zone: string | undefined): KubeObject => ({
  apiVersion: "v1",
  kind: "Node",
  metadata: { name, ...(zone === undefined ? {} : { labels: { "topology.kubernetes.io/zone": zone } }) },
});
const pod = (nodeName: string | undefined): KubeObject => ({
  apiVersion: "v1",
  kind: "Pod",
  metadata: { name: "moe-0-abcde", uid: "u", labels: { [labels.rank]: "0" } },
  spec: nodeName === undefined ? {} : { nodeName },
});

test("a pod is in the zone that its node's label names, and in none where there is no label or no node yet", () => {
  const nodes = nodeHealth([node("a", "eu-1"), node("b", undefined)]);
  const zone = (name: string | undefined) => podFacts(pod(name), nodes, 0)?.zone;
  assert.deepEqual([zone("a"), zone("b"), zone("c"), zone(undefined)], ["eu-1", undefined, undefined, undefined]);
  const byZone = nodeHealth([node("a", "eu-1"), node("b", undefined)], "topology.kubernetes.io/zone");
  const rack = (name: string | undefined) => podFacts(pod(name), byZone, 0)?.rack;
  assert.deepEqual([rack("a"), rack("b"), rack(undefined)], ["eu-1", undefined, undefined], "by the label that the topology names");
  assert.equal(podFacts(pod("a"), nodes, 0)?.rack, undefined, "and by none without");
});

const at = (ms: number) => new Date(ms).toISOString();
const scheduled = (ms: number) => ({ type: "PodScheduled", status: "True", lastTransitionTime: at(ms) });
const waiting = (boundMs: number, ...reasons: string[]): KubeObject => ({
  ...pod("a"),
  status: {
    phase: "Pending",
    conditions: [scheduled(boundMs)],
    containerStatuses: reasons.map((reason) => ({ name: "x", state: { waiting: { reason } } })),
  },
});

test("a node that nobody knows is silent some time after the pod was bound to it, however old the pod is", () => {
  const bound = { ...waiting(100_000), metadata: { ...pod("a").metadata, creationTimestamp: at(1) } };
  const silent = (now: number) => podFacts(bound, nodeHealth([]), now)?.silent;
  assert.deepEqual([silent(101_000), silent(130_000), silent(131_000)], [false, false, true]);
});

test("containers that are not made within a minute are a problem, and the first thing that is wrong is said", () => {
  const problem = (from: KubeObject, now: number) => podFacts(from, nodeHealth([node("a", undefined)]), now)?.problem;
  assert.equal(problem(waiting(1_000, "ContainerCreating"), 60_999), "");
  assert.equal(
    problem(waiting(1_000, "ContainerCreating"), 150_000),
    "ContainerCreating for 120 s: kubectl describe pod moe-0-abcde (a volume or Secret is missing)",
  );
  assert.equal(problem(waiting(1_000, "ContainerCreating", "ImagePullBackOff"), 2_000), "ImagePullBackOff");
});

test("why a container ended stands between its runs, in its own words, until it is ready", () => {
  const terminated = { exitCode: 1, reason: "Error", message: '{"level":"fatal","code":"KvPoolTooSmall","message":"raise it to 1024Mi"}' };
  const runs: Record<string, object> = {
    ended: { restartCount: 0, state: { terminated } },
    waits: { restartCount: 1, state: { waiting: { reason: "CrashLoopBackOff", message: "back-off 10s" } }, lastState: { terminated } },
    "is made": { restartCount: 1, state: { waiting: { reason: "ContainerCreating" } }, lastState: { terminated } },
    runs: { restartCount: 1, state: { running: {} }, lastState: { terminated } },
  };
  const facts = (container: object, conditions: readonly object[] = []) =>
    podFacts(
      { ...pod("a"), status: { phase: "Running", conditions, containerStatuses: [container] } },
      nodeHealth([node("a", undefined)]),
      0,
    );
  for (const [name, run] of Object.entries(runs)) {
    const { problem, end } = facts(run) ?? {};
    assert.equal(problem, "CrashLoopBackOff: KvPoolTooSmall: raise it to 1024Mi", name);
    assert.deepEqual(end, { code: "KvPoolTooSmall", message: "raise it to 1024Mi" }, name);
  }
  assert.equal(facts({ ...runs.runs, ready: true })?.problem, "");
  const since = (ms: number) => [{ type: "Ready", status: "False", lastTransitionTime: at(ms) }];
  const again = { ...runs.runs, state: { running: { startedAt: at(5_000) } } };
  assert.equal(facts(again, since(4_000))?.end?.code, "KvPoolTooSmall", "it was not ready since");
  const { problem, end } = facts(again, since(9_000)) ?? {};
  assert.deepEqual([problem, end], ["", undefined], "a run that was ready has left the end before it behind");
  const silent = { terminated: { exitCode: 139, reason: "Error", message: '{"level":"info","message":"plan committed"}' } };
  assert.equal(facts({ state: silent })?.problem, "CrashLoopBackOff: last run ended with Error (exit code 139)");
});

const none = { deployment: undefined, autoscaler: undefined };

test("gateways say what is wrong with their pods, or why there are none", () => {
  const ended = { ...waiting(1_000, "ImagePullBackOff"), metadata: { ...pod("a").metadata, deletionTimestamp: at(1) } };
  assert.deepEqual(gatewayFacts(none, [ended, waiting(1_000, "CrashLoopBackOff")], 0), {
    ready: 0,
    replicas: undefined,
    message: "moe-0-abcde: CrashLoopBackOff",
    createError: "",
    unscaled: "",
  });
  const failure = { type: "ReplicaFailure", status: "True", message: "exceeded quota" };
  const deployment = { ...pod("a"), spec: { replicas: 2 }, status: { readyReplicas: 1, conditions: [failure] } };
  const want = { ready: 1, replicas: 2, message: "exceeded quota", createError: "exceeded quota", unscaled: "" };
  assert.deepEqual(gatewayFacts({ ...none, deployment }, [], 0), want);
  const stuck = { type: "Progressing", status: "False", reason: "ProgressDeadlineExceeded", message: "it has timed out" };
  const rolling = { ...pod("a"), status: { readyReplicas: 1, conditions: [stuck] } };
  assert.equal(gatewayFacts({ ...none, deployment: rolling }, [], 0).message, "ProgressDeadlineExceeded: it has timed out");
});

test("an autoscaler that sets no number says why, unless it stands still at zero", () => {
  const unscaled = (condition: object) => {
    const autoscaler = { ...pod("a"), status: { conditions: [{ type: "ScalingActive", message: "no metrics", ...condition }] } };
    return gatewayFacts({ deployment: undefined, autoscaler }, [], 0).unscaled;
  };
  assert.equal(unscaled({ status: "False", reason: "FailedGetContainerResourceMetric" }), "FailedGetContainerResourceMetric: no metrics");
  assert.equal(unscaled({ status: "False", reason: "ScalingDisabled" }), "");
  assert.equal(unscaled({ status: "True", reason: "ValidMetricFound" }), "");
});

test("a pod cannot stay on a node that is cordoned or about to be removed, unless it tolerates that, nor when it is disrupted", () => {
  const on = (spec: object, more: object = {}): string | undefined =>
    podFacts({ ...pod("a"), ...more }, nodeHealth([{ ...node("a", undefined), spec }]), 0)?.mustGo;
  const taint = (key: string, effect: string) => ({ taints: [{ key, effect }] });
  assert.equal(on({}), "");
  assert.equal(on({ unschedulable: true }), "node a is cordoned");
  assert.equal(on(taint("ToBeDeletedByClusterAutoscaler", "NoSchedule")), "node a is to be removed by the cluster autoscaler");
  assert.equal(on(taint("ToBeDeletedByClusterAutoscaler", "PreferNoSchedule")), "");
  assert.equal(on(taint("example.com/gpu", "NoSchedule")), "", "a taint that keeps others away is no reason to go");
  const tolerations = [{ key: "node.kubernetes.io/unschedulable", operator: "Exists" }];
  assert.equal(on({ unschedulable: true }, { spec: { nodeName: "a", tolerations } }), "");
  const conditions = [{ type: "DisruptionTarget", status: "True", reason: "EvictionByEvictionAPI", message: "evicting" }];
  assert.equal(on({}, { status: { conditions } }), "EvictionByEvictionAPI: evicting");
  assert.equal(podFacts(pod(undefined), nodeHealth([]), 0)?.mustGo, "");
});

test("a pod says since when it is not Ready and how often it was started again, whoever wrote its conditions and left out their times", () => {
  const created = { ...pod("a").metadata, creationTimestamp: at(5_000) };
  const facts = (status: object) => podFacts({ ...pod("a"), metadata: created, status }, nodeHealth([node("a", undefined)]), 0);
  const ready = (status: string, lastTransitionTime: string | null) => ({ conditions: [{ type: "Ready", status, lastTransitionTime }] });
  const since = (status: object) => facts(status)?.unreadySinceMs;
  assert.deepEqual([since(ready("True", at(9_000))), since(ready("False", at(9_000)))], [undefined, 9_000]);
  assert.deepEqual([since(ready("False", null)), since({})], [5_000, 5_000], "then since it was made");
  assert.equal(facts({ containerStatuses: [{ restartCount: 1 }, { restartCount: 4 }] })?.restarts, 4);
  assert.equal(facts({})?.restarts, 0);
});

test("a pod that no scheduler has a word for says by whose name it waits", () => {
  const lonely = (conditions: object[], spec: object = { schedulerName: "volcano" }): KubeObject => ({
    ...pod(undefined),
    metadata: { ...pod(undefined).metadata, creationTimestamp: at(1000) },
    spec,
    status: { phase: "Pending", conditions },
  });
  const said = (object: KubeObject, now: number) => podFacts(object, nodeHealth([]), now)?.problem ?? "";
  assert.equal(said(lonely([]), 120_000), "", "a scheduler of groups may wait for the others of one");
  assert.match(said(lonely([]), 130_000), /^Unschedulable: no scheduler named "volcano" has looked at the pod for 120 s/);
  assert.equal(said(lonely([]), 240_000), said(lonely([]), 130_000), "in whole steps, so that the status holds still");
  const refused = { type: "PodScheduled", status: "False", reason: "Unschedulable", message: "0/3 nodes" };
  assert.equal(said(lonely([refused]), 130_000), "Unschedulable: 0/3 nodes");
  assert.equal(said(lonely([], { nodeName: "a" }), 130_000), "");
});

test("the gate of a pod's certificate is no trouble, and its condition no scheduler's word; another's gate is told of", () => {
  const of = (gates: readonly string[], seconds: number) => {
    const spec = { schedulingGates: gates.map((name) => ({ name })) };
    const said = { type: "PodScheduled", status: "False", reason: "SchedulingGated", message: "Scheduling is blocked" };
    const metadata = { ...pod(undefined).metadata, creationTimestamp: at(1_000) };
    return podFacts({ ...pod(undefined), metadata, spec, status: { conditions: [said] } }, nodeHealth([]), seconds * 1000);
  };
  const problems = (gates: readonly string[]) => [1, 300].map((seconds) => of(gates, seconds)?.problem.split(":")[0]);
  assert.deepEqual(of(["enodia.dev/certificate"], 1)?.gates, ["enodia.dev/certificate"]);
  assert.deepEqual(problems(["enodia.dev/certificate"]), ["", ""], "an operator that cannot write it says why itself");
  assert.deepEqual(problems(["enodia.dev/certificate", "quota"]), ["SchedulingGated", "SchedulingGated"]);
  assert.deepEqual(problems([]), ["", "Unschedulable"], "then it is a scheduler's");
});

test("a label that is no rank of any world makes a pod none of ours, however large its number", () => {
  const rankOf = (label: string) => {
    const labelled = { ...pod("a"), metadata: { ...pod("a").metadata, labels: { [labels.rank]: label } } };
    return podFacts(labelled, nodeHealth([]), 0)?.rank;
  };
  assert.deepEqual(["0", "7", "4095"].map(rankOf), [0, 7, 4095]);
  for (const label of ["4096", "999999999", "1e3", "", " 1", "-1", "1.5"]) assert.equal(rankOf(label), undefined, label);
});

test("how often a rank sends load is what its own environment says, its default where that says nothing", () => {
  const every = (...env: object[]) =>
    podFacts({ ...pod("a"), spec: { containers: [{ name: "runtime", env }] } }, nodeHealth([]), 0)?.loadEveryMs;
  const name = "ENODIA_TELEMETRY_WINDOW_MS";
  const said = [every({ name, value: "333" }), every({ name: "OTHER", valueFrom: {} }), every({ name, value: "often" })];
  assert.deepEqual(said, [333, 15_000, undefined]);
});
