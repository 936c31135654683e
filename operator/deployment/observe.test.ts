// What is read from pods and nodes.
import assert from "node:assert/strict";
import { test } from "node:test";
import { labels } from "../../crds/common.ts";
import type { KubeObject } from "../kube/kube.ts";
import { nodeHealth, podFacts } from "./observe.ts";

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
});
