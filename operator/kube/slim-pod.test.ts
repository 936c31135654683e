// A slim pod says of itself what the whole one says, and is a fraction of it.
import assert from "node:assert/strict";
import { test } from "node:test";
import { deployment, settings } from "../../test/kit/deployment/deployment.ts";
import { modelOfPod } from "../deployment/objects/model-place.ts";
import { workerPod, workerTemplate } from "../deployment/objects/worker-pod.ts";
import { isOfOther } from "../deployment/orphans.ts";
import { nodeHealth, podFacts, podSight } from "../deployment/pod-facts.ts";
import type { KubeObject } from "./kube.ts";
import { slimPod } from "./slim-pod.ts";

const context = { deployment: deployment(), settings };
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
      ...[podFacts(pod, nodes, 1_000), podSight(pod, 1_000), modelOfPod(pod)],
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
  const whole: KubeObject = { ...made, metadata, spec: Object.assign({}, made.spec, { schedulerName: "volcano" }) };
  const facts = podFacts(slimPod(whole), nodeHealth([]), Date.parse("2026-01-01T00:05:00Z"));
  assert.match(facts?.problem ?? "", /no scheduler named "volcano"/);
});
