// Own pod writes stay visible until the cache has heard of them, however long its watch hangs; and what concerns whom when a watch fails.
import assert from "node:assert/strict";
import { test } from "node:test";
import { AppError } from "../../crds/common.ts";
import { deployment, settings } from "../../test/kit/deployment/deployment.ts";
import { FakeKube } from "../../test/kit/kube/fake-kube.ts";
import { modelOfPod } from "../deployment/objects/model-place.ts";
import { workerPod, workerTemplate } from "../deployment/objects/worker-pod.ts";
import { isOfOther } from "../deployment/observe/own-pods.ts";
import { nodeHealth, podFacts, podState } from "../deployment/observe/pod-facts.ts";
import { Informers, PodOverlay, slimPod } from "./informers.ts";
import type { KubeObject } from "./kube.ts";

const pod = (uid: string, version: number): KubeObject => ({
  apiVersion: "v1",
  kind: "Pod",
  metadata: { name: uid, namespace: "ns", uid, resourceVersion: String(version) },
});
const all = () => true;

function world() {
  const at = { ms: 0, heard: 100 };
  const overlay = new PodOverlay(
    (object) => at.heard >= Number(object.metadata.resourceVersion),
    () => at.ms,
  );
  const names = (cached: KubeObject[]) =>
    overlay.merge(cached, all).map((object) => `${object.metadata.uid}@${object.metadata.resourceVersion}`);
  return { at, overlay, names };
}

test("a pod that was made is there while the watch hangs, and the cache is right once it has heard of it", () => {
  const { at, overlay, names } = world();
  overlay.wrote(pod("a", 105));
  at.ms = 320_000;
  assert.deepEqual(names([]), ["a@105"], "a watch may hang for minutes");
  assert.deepEqual(names([pod("b", 90)]), ["b@90", "a@105"]);
  at.heard = 107;
  assert.deepEqual(names([pod("a", 106)]), ["a@106"]);
  assert.deepEqual(names([]), [], "and it is gone when the cache says so");
});

test("a pod that is already gone again when the cache hears of it does not come back", () => {
  const { at, overlay, names } = world();
  overlay.wrote(pod("a", 105));
  at.heard = 110;
  assert.deepEqual(names([]), []);
});

test("a pod removed by force is gone whatever a late cache shows, and nothing is remembered for ever", () => {
  const { at, overlay, names } = world();
  overlay.wrote(pod("b", 105));
  overlay.removed("a");
  at.ms = 320_000;
  assert.deepEqual(names([pod("a", 90)]), ["b@105"]);
  at.ms = 601_000;
  assert.deepEqual(names([]), []);
});

test("that the operator may not keep CAs in its own namespace is told of, and holds up nothing in those of deployments", async () => {
  const kube = new FakeKube();
  const { list } = kube;
  kube.list = async (resource, options) => {
    if (options?.namespace === "system") throw new AppError("secrets is forbidden", { code: "Forbidden", retry: "never" });
    return list(resource, options);
  };
  const informers = new Informers(["ns"], "system", { kube, random: () => 0 });
  informers.start();
  await informers.refresh();
  assert.match(informers.commonTrouble() ?? "", /secrets is forbidden/);
  assert.equal(informers.trouble("ns"), undefined);
  assert.deepEqual([informers.watches("ns"), informers.watches("system")], [true, false]);
  await informers.stop();
});

test("without the kind of training jobs nothing is trained, which is told, and serving goes on", async () => {
  const kube = new FakeKube();
  const { list } = kube;
  kube.list = async (resource, options) => {
    if (resource.kind === "MoETrainingJob") throw new AppError("the server could not find the requested resource", { code: "NotFound" });
    return list(resource, options);
  };
  for (const namespaces of [[], ["ns"]]) {
    const informers = new Informers(namespaces, "system", { kube, random: () => 0 });
    informers.start();
    await informers.refresh();
    assert.deepEqual([informers.trouble("ns"), informers.commonTrouble()], [undefined, undefined]);
    assert.match(informers.trainingTrouble("ns") ?? "", /moetrainingjobs: .*could not find/);
    assert.match(informers.trainingTrouble() ?? "", /could not find/);
    await informers.stop();
  }
});

const context = { deployment: deployment({ rebalancing: { trigger: { window: "1s" } } }), settings };
const disrupted = { type: "DisruptionTarget", status: "True", reason: "EvictionByEvictionAPI", message: "drained" };
const statuses: Readonly<Record<string, object>> = {
  "not bound yet": {},
  ready: { phase: "Running", podIP: "10.0.0.1", conditions: [{ type: "Ready", status: "True" }], containerStatuses: [{ restartCount: 2 }] },
  "about to go": { phase: "Running", conditions: [disrupted] },
  ended: { phase: "Failed", reason: "Evicted", message: "no room" },
};

for (const [state, status] of Object.entries(statuses)) {
  test(`a pod that is ${state} says the same without what nobody reads of it`, () => {
    const made = workerPod(context, workerTemplate(context), 3, "abcde");
    const tolerations = [{ key: "node.kubernetes.io/unschedulable", effect: "NoSchedule" }];
    const whole: KubeObject = { ...made, spec: Object.assign({}, made.spec, { nodeName: "a", tolerations }), status };
    const cordoned: KubeObject = { apiVersion: "v1", kind: "Node", metadata: { name: "a" }, spec: { unschedulable: true } };
    const slim = slimPod(whole);
    const nodes = nodeHealth([cordoned]);
    const said = (pod: KubeObject) => [
      ...[podFacts(pod, nodes, 1_000), podState(pod, 1_000), modelOfPod(pod)],
      ...[isOfOther(pod, context.deployment.metadata.uid), isOfOther(pod, "another")],
    ];
    assert.deepEqual(said(slim), said(whole));
    assert.notEqual(modelOfPod(slim), undefined);
    assert.equal(isOfOther(slim, "another"), true);
    const bytes = (pod: KubeObject) => JSON.stringify(pod.spec).length;
    assert.ok(4 * bytes(slim) < bytes(whole), `${bytes(slim)} of ${bytes(whole)} bytes`);
  });
}

test("a pod that no scheduler looks at says which one was asked", () => {
  const made = workerPod(context, workerTemplate(context), 3, "abcde");
  const metadata = Object.assign({}, made.metadata, { creationTimestamp: "2026-01-01T00:00:00Z" });
  const whole: KubeObject = { ...made, metadata, spec: Object.assign({}, made.spec, { schedulerName: "volcano", schedulingGates: [] }) };
  const facts = podFacts(slimPod(whole), nodeHealth([]), Date.parse("2026-01-01T00:05:00Z"));
  assert.match(facts?.problem ?? "", /no scheduler named "volcano"/);
});
