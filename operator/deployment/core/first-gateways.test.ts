// How many gateways a deployment begins with: two need two nodes of which it is known that they can take one each.
import assert from "node:assert/strict";
import { test } from "node:test";
import { firstGateways, type GatewayNeeds, type NodeCapacity } from "./first-gateways.ts";

const node = (name: string, more: Partial<NodeCapacity> = {}): NodeCapacity => ({
  ...{ name, isOpen: true, labels: { disk: name }, allocatable: { cpu: "1", memory: "1Gi", pods: "10" } },
  ...more,
});
const needs: GatewayNeeds = { requests: [{ cpu: "100m", memory: "512Mi" }], nodeSelector: {}, hasAffinity: false };
const both = [node("a"), node("b")];
const second = (more: Partial<NodeCapacity>) => [node("a"), node("b", more)];

const cases: Record<string, { nodes: readonly NodeCapacity[]; needs?: Partial<GatewayNeeds>; count: number; reason: RegExp }> = {
  "two that can": { nodes: both, count: 2, reason: /^nodes a and b can take one each$/ },
  "no node is seen": { nodes: [], count: 1, reason: /^0 of 0/ },
  "one node": { nodes: [node("a")], count: 1, reason: /^1 of 1/ },
  "the second one takes nothing": { nodes: second({ isOpen: false }), count: 1, reason: /^1 of 2/ },
  "the second one says nothing": { nodes: second({ allocatable: undefined }), count: 1, reason: /^1 of 2/ },
  "the second one is too small": { nodes: second({ allocatable: { cpu: "1", memory: "500Mi" } }), count: 1, reason: /^1 of 2/ },
  "the second one has what is no quantity": { nodes: second({ allocatable: { cpu: "x", memory: "1Gi" } }), count: 1, reason: /^1 of 2/ },
  "a sidecar makes it too large": {
    nodes: both,
    needs: { requests: [...needs.requests, { memory: "600Mi" }] },
    count: 1,
    reason: /^0 of 2/,
  },
  "it needs a device": { nodes: both, needs: { requests: [{ "x.com/gpu": "1" }] }, count: 1, reason: /^0 of 2/ },
  "one has the label": { nodes: both, needs: { nodeSelector: { disk: "b" } }, count: 1, reason: /^1 of 2/ },
  "an affinity": { nodes: both, needs: { hasAffinity: true }, count: 1, reason: /affinity/ },
};

for (const [name, { nodes, needs: changed, count, reason }] of Object.entries(cases))
  test(name, () => {
    const found = firstGateways({ ...needs, ...changed }, nodes);
    assert.equal(found.count, count);
    assert.match(found.reason, reason);
  });
