// Which deployments a changed node wakes.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Listener } from "./informer.ts";
import type { KubeObject } from "./kube.ts";
import { deploymentsOn, wakeByNodes } from "./wake.ts";

const pod = (name: string, deployment: string | undefined, nodeName?: string): KubeObject => ({
  apiVersion: "v1",
  kind: "Pod",
  metadata: { namespace: "ns", name, labels: deployment === undefined ? {} : { "enodia.dev/deployment": deployment } },
  spec: { nodeName },
});
const pods = [pod("a-0", "a", "one"), pod("a-1", "a", "one"), pod("b-0", "b", "two"), pod("c-0", "c"), pod("d", undefined, "one")];

test("a node concerns the deployments with pods on it, each once", () => {
  const on = (node: string) => deploymentsOn(node, pods).map(({ name }) => name);
  assert.deepEqual([on("one"), on("two"), on("three")], [["a"], ["b"], []]);
});

const node = (change: { spec?: object; labels?: Record<string, string>; ready?: string; heard?: number } = {}): KubeObject => {
  const { spec = {}, labels = {}, ready = "True", heard = 0 } = change;
  const conditions = [{ type: "Ready", status: ready, lastHeartbeatTime: heard }];
  return { apiVersion: "v1", kind: "Node", metadata: { name: "one", labels }, spec, status: { conditions, images: [heard] } };
};
const changes: Record<string, readonly [change: KubeObject | undefined, wakes: boolean]> = {
  "a heartbeat": [node({ heard: 1 }), false],
  "another heartbeat": [node({ heard: 2 }), false],
  "a node that is not ready": [node({ ready: "Unknown", heard: 2 }), true],
  "the same, heard again": [node({ ready: "Unknown", heard: 3 }), false],
  "a cordon": [node({ spec: { unschedulable: true } }), true],
  "a taint": [node({ spec: { taints: [{ key: "x", effect: "NoExecute" }] } }), true],
  "another zone": [node({ labels: { "topology.kubernetes.io/zone": "b" } }), true],
  "a node that is gone": [undefined, true],
};

test("heartbeats of a node wake nobody; what passes read of it wakes who has pods there", () => {
  let listener: Listener = () => {};
  const woken: string[] = [];
  const informers = {
    list: () => pods,
    onChange: (_: string, heard: Listener) => {
      listener = heard;
      return () => {};
    },
  };
  wakeByNodes(informers, ({ name }) => void woken.push(name));
  listener(node(), "set");
  for (const [what, [change, wakes]] of Object.entries(changes)) {
    woken.length = 0;
    if (change) listener(change, "set");
    else listener(node(), "delete");
    assert.deepEqual(woken, wakes ? ["a"] : [], what);
  }
});
