// MoEDeployments as any client could store them, through the schema, the objects made of them and the pure core: nothing throws, what is
// to be done is bounded, and the status that is written is one that can be read again.

import assert from "node:assert/strict";
import { customResourceDefinition, kinds } from "../../../crds/index.ts";
import { parseMoEDeployment } from "../../../crds/moe-deployment.ts";
import { moeDeploymentStatusSchema } from "../../../crds/moe-deployment-status.ts";
import { memoryRefusals, rankFloor } from "../../../operator/deployment/core/capacity.ts";
import type { Snapshot } from "../../../operator/deployment/core/snapshot.ts";
import type { MemberView } from "../../../operator/deployment/core/world.ts";
import { nextStep } from "../../../operator/deployment/features/pod-actions.ts";
import { orphanRemovals } from "../../../operator/deployment/features/pod-repair.ts";
import { currentOperation } from "../../../operator/deployment/features/progress.ts";
import { targetRanks } from "../../../operator/deployment/features/ranks.ts";
import { rolloutView } from "../../../operator/deployment/features/rollout-status.ts";
import { nextStatus } from "../../../operator/deployment/features/status.ts";
import { absentObjects, appliedObjects } from "../../../operator/deployment/objects/index.ts";
import { workerPod, workerTemplate } from "../../../operator/deployment/objects/worker-pod.ts";
import {
  leavingAnnotation,
  leavingSinceAnnotation,
  nodeHealth,
  podFacts,
  withLosses,
} from "../../../operator/deployment/observe/pod-facts.ts";
import type { KubeObject } from "../../../operator/kube/kube.ts";
import { member, model, now, settings, snapshot, view } from "../../kit/deployment/deployment.ts";
import { type Fuzzer, unguarded } from "../fuzzer.ts";
import type { Random } from "../mutate.ts";
import { chance, fromSchema, pick, text } from "../words.ts";

interface Input {
  readonly object: unknown;
  readonly pods: readonly KubeObject[];
  readonly members: readonly Partial<MemberView>[];
  readonly more: Partial<Pick<Snapshot, "claim" | "switching" | "warmingUp">>;
  readonly seen: boolean;
  readonly successor: "Accepted" | "Refused" | "None";
}

const crd = customResourceDefinition(kinds[0] as (typeof kinds)[number]) as any;
const { spec: specSchema, status: statusSchema } = crd.spec.versions[0].schema.openAPIV3Schema.properties;
/** Labels are text that others can write. */
const farRanks = [4_095, 4_096, 99_999, 999_999_999, 2 ** 40];
/** Bytes of a status: one that grows with what clients write would fill the API server. */
const statusBytesMax = 512 * 1024;
const reasons = ["Shrink", "Roll", "Evict", "Stop"] as const;

/** A worker pod as the API server gives it. */
function podOf(random: Random, rank: number): KubeObject {
  const at = (ms: number) => new Date(now.getTime() - random(ms)).toISOString();
  const marks = chance(random, 25) ? { [leavingAnnotation]: pick(random, reasons), [leavingSinceAnnotation]: at(1_000_000) } : {};
  const waiting = { reason: pick(random, ["ImagePullBackOff", "CrashLoopBackOff", "ContainerCreating"]), message: text(random) };
  const state = pick(random, [
    { waiting },
    { running: {} },
    { terminated: { exitCode: random(256), reason: "Error", message: text(random) } },
  ]);
  const disrupted = chance(random, 10) ? [{ type: "DisruptionTarget", status: "True", reason: text(random), message: text(random) }] : [];
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: {
      name: `moe-${rank}-${random(3)}`,
      uid: `pod-${rank}-${random(3)}`,
      labels: { "enodia.dev/rank": chance(random, 97) ? String(rank) : text(random) },
      annotations: { "enodia.dev/template-hash": pick(random, ["new", "old", "older", ""]), ...marks },
      creationTimestamp: at(1_000_000),
      ...(chance(random, 15) ? { deletionTimestamp: at(100_000) } : {}),
    },
    spec: { nodeName: `node-${random(4)}`, containers: [{ name: "runtime", image: pick(random, ["a", "b"]) }] },
    status: {
      phase: pick(random, ["Pending", "Running", "Running", "Running", "Failed", "Succeeded"]),
      podIP: `10.0.0.${random(256)}`,
      conditions: [
        ...disrupted,
        { type: "Ready", status: chance(random, 60) ? "True" : "False", lastTransitionTime: chance(random, 95) ? at(1_000_000) : null },
      ],
      containerStatuses: [{ state, lastState: {}, restartCount: chance(random, 20) ? random(1_000) : 0 }],
    },
  };
}

const nodes = nodeHealth(
  [0, 1, 2].map((at) => ({
    ...{ apiVersion: "v1", kind: "Node", metadata: { name: `node-${at}` }, spec: { unschedulable: at === 1 } },
    status: { conditions: [{ type: "Ready", status: at === 2 ? "Unknown" : "True" }] },
  })),
);

/** Statuses come from us, or from whoever else may write them: most are none. */
function statusOf(random: Random): unknown {
  const at = random(10);
  if (at < 5) return {};
  return fromSchema(random, statusSchema);
}

const subject = { parse: parseMoEDeployment, step: nextStep };

export const deployments: Fuzzer<typeof subject, Input> = {
  name: "deployments",
  share: 70,
  deadlineMs: 10_000,
  refusals: ["InvalidSpec"],
  start: () => subject,
  input(random) {
    const ranks = random(chance(random, 10) ? 40 : 6);
    return {
      object: {
        metadata: { name: pick(random, ["moe", "a", "a".repeat(40)]), namespace: "ns", uid: "uid-moe", generation: 1 + random(3) },
        spec: fromSchema(random, specSchema),
        status: statusOf(random),
      },
      pods: Array.from({ length: ranks }, (_, rank) => podOf(random, chance(random, 90) ? rank : pick(random, farRanks))),
      members: Array.from({ length: random(6) }, (_, rank) => ({ rank, active: chance(random, 70), connected: chance(random, 80) })),
      more: { claim: pick(random, ["Present", "Missing", "Unknown"]), switching: chance(random, 10), warmingUp: chance(random, 20) },
      seen: chance(random, 60),
      successor: pick(random, ["Accepted", "Refused", "None"]),
    };
  },
  attempt({ parse, step }, { object, pods, members, more, seen, successor }) {
    const deployment = parse(object);
    const context = { deployment, settings };
    const template = workerTemplate(context);
    const objects = [...appliedObjects(context), workerPod(context, template, 0, "abcde"), ...absentObjects(context)];
    assert.ok(JSON.stringify(objects).length < 4 * JSON.stringify(object).length + 100_000, "objects are as large as their spec");
    const world = seen ? view({ model, members: members.map((one) => member(one.rank ?? 0, one)) }) : undefined;
    const facts = withLosses(
      pods.flatMap((one) => podFacts(one, nodes, now.getTime()) ?? []),
      world,
      more.warmingUp === true,
    );
    const at = snapshot({ deployment, pods: facts, view: world, ...more });
    const { limitBytes } = template;
    const target = targetRanks(deployment, now, { floor: seen ? rankFloor(deployment.spec, model, limitBytes) : undefined });
    const { actions, blocked, note, failures } = step({ snapshot: at, ranks: target.ranks, successor, limitBytes });
    assert.ok(actions.length <= 4 * (pods.length + target.ranks) + 8, `${actions.length} actions for ${pods.length} pods`);
    for (const action of actions) if (action.type === "create") assert.ok(action.rank >= 0 && action.rank < 4096, `rank ${action.rank}`);
    const cleared = orphanRemovals(at, target.ranks, "");
    assert.ok(cleared.length <= pods.length + 8);
    const operation = currentOperation({ snapshot: at, ranks: target.ranks, actions, blocked, note });
    const status = nextStatus({
      snapshot: at,
      target,
      refusals: [...template.refusals, ...memoryRefusals(deployment.spec, seen ? model : undefined, target.ranks, limitBytes)],
      blocked,
      operation,
      rollout: rolloutView(at, target.ranks, operation?.id).status,
      floor: undefined,
      failures,
      failure: "",
      judgeError: "",
      createError: "",
    });
    moeDeploymentStatusSchema.parse(status);
    assert.ok(JSON.stringify(status).length <= statusBytesMax, `a status of ${JSON.stringify(status).length} bytes`);
  },
  plant: ({ step }) => ({ parse: unguarded(parseMoEDeployment, /kvPool/), step }),
};
