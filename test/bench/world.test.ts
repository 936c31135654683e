// A world of 256 ranks and 58 layers of 256 experts: its plan fits into etcd with room for many more expert replicas, its pushes into a message, and
// what one rank costs its operator does not grow with their number. Figures of CPU time are ratios of one run.
import assert from "node:assert/strict";
import { test } from "node:test";
import { planBounds } from "../../crds/plan.ts";
import { loadMessageBytesMax } from "../../crds/telemetry.ts";
import { checkPlanBytes, nextPlan, planObjectBytesMax } from "../../operator/rebalance/rollout/plan-object.ts";
import { messageBytesMax } from "../../runtime/net/grpc.ts";
import { worldCosts } from "./world.ts";

const [layers, experts] = [58, 256];

test("bytes of a large world are within their bounds, and grow no faster than its ranks", () => {
  const [few, many] = [64, 256].map((ranks) => worldCosts({ ranks, layers, experts })) as [
    ReturnType<typeof worldCosts>,
    ReturnType<typeof worldCosts>,
  ];
  assert.ok(many.planObjectBytes < 256 * 1024, `${many.planObjectBytes} bytes of a plan`);
  assert.ok(many.planPushBytes < messageBytesMax && many.membershipPushBytes < messageBytesMax);
  assert.ok(many.loadMessageBytes < loadMessageBytesMax && many.loadMessageBytes === few.loadMessageBytes);
  assert.ok(many.protocolEvents <= 4.1 * few.protocolEvents, `${few.protocolEvents} -> ${many.protocolEvents} events`);
  assert.ok(many.protocolMs < 12 * few.protocolMs + 50, `${few.protocolMs} -> ${many.protocolMs} ms of CPU, quadratic would be 16 times`);
  assert.ok(many.planMs < 3 * few.planMs + 20, `${few.planMs} -> ${many.planMs} ms of CPU`);
});

test("a plan with ten replicas of each expert on 256 ranks can be stored; one that cannot is refused by what makes it smaller", () => {
  const specOf = (expertReplicas: number) => {
    const hosts = Array.from({ length: experts }, (_, expert) => Array.from({ length: expertReplicas }, (_, i) => (expert + 29 * i) % 256));
    const weights = hosts.map((row) => row.map((_, i) => Math.floor(1000 / expertReplicas) + (i === 0 ? 1000 % expertReplicas : 0)));
    const placed = Array.from({ length: layers }, () => ({ hosts, weights }));
    const { spec } = nextPlan(undefined, placed, new Set(), { deploymentUid: "u".repeat(36), modelDigest: "d".repeat(64), epoch: 1 });
    for (const layer of spec.layers) assert.ok(layer.hosts.length <= planBounds.layerText);
    const ranks = Array.from({ length: 256 }, (_, rank) => ({
      rank,
      podName: `a-name-of-forty-characters-for-the-pod-${rank}`,
      podUID: "p".repeat(36),
    }));
    return { ...spec, ranks };
  };
  checkPlanBytes(specOf(10));
  const many = specOf(24);
  assert.ok(JSON.stringify(many).length > planObjectBytesMax);
  assert.throws(() => checkPlanBytes(many), { code: "PlanTooLarge", message: /minExpertReplicas or spec.experts.memoryPerRank/ });
});
