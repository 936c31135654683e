// Pods that cannot live or cannot be made cost a few requests, not a storm of them.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../../crds/common.ts";
import {
  conditionOf,
  kubelet,
  pods,
  readyWith,
  ref,
  startOperator,
  status,
  user,
  world,
} from "../../test/kit/deployment/deployment-plane.ts";
import type { FakeKube } from "../../test/kit/kube/fake-kube.ts";
import { until } from "../../test/kit/wait.ts";
import { resources } from "../kube/kube.ts";

/** The pods that the operator asks for, by rank; dry runs left out. */
function creations(kube: FakeKube): string[] {
  const made: string[] = [];
  const create = kube.create;
  kube.create = async (resource, object, options) => {
    if (resource.kind === "Pod" && !options.dryRun) made.push(object.metadata.labels?.["enodia.dev/rank"] ?? "");
    return create(resource, object, options);
  };
  return made;
}

/** A node without room: pods of this rank are refused by its kubelet. */
function refuseRank(kube: FakeKube, rank: string): () => void {
  const timer = setInterval(() => {
    for (const { metadata, status } of pods(kube)) {
      if (metadata.labels["enodia.dev/rank"] !== rank || status?.phase === "Failed") continue;
      kube.mutate(resources.pods, { namespace: "ns", name: metadata.name }, (pod) =>
        Object.assign(pod, { status: { phase: "Failed", reason: "OutOfcpu", message: "Node didn't have enough resource: cpu" } }),
      );
    }
  }, 1);
  return () => clearInterval(timer);
}

test("a rank whose pods fail is made again after growing pauses, which a new leader keeps", { timeout: 60_000 }, async () => {
  const kube = await world();
  const made = creations(kube);
  const of = (rank: string) => made.filter((one) => one === rank).length;
  const life = kubelet(kube);
  const relent = refuseRank(kube, "1");
  let operator = await startOperator(kube);
  await sleep(2_500);
  assert.ok(of("1") >= 2 && of("1") <= 4, `${of("1")} pods in 2.5 s`);
  const [failure] = (await status(kube)).expertParallel.podFailures;
  assert.deepEqual([failure.rank, failure.reason], [1, "OutOfcpu"]);
  assert.ok(failure.count >= 2);
  await until("it is said", async () => /pods in a row ended \(OutOfcpu\)/.test(conditionOf(await status(kube), "Ready").message));
  await operator.stop();
  const before = of("1");
  operator = await startOperator(kube);
  await sleep(500);
  assert.ok(of("1") <= before + 1, `${of("1") - before} more from a new leader`);
  relent();
  await until("3 ranks serve", readyWith(kube, 3), 30_000);
  life.stop();
  await operator.stop();
});

test("many pods are made in batches that grow, and one refusal ends them", { timeout: 60_000 }, async () => {
  const kube = await world();
  await kube.patch(resources.moeDeployments, ref, { spec: { replicas: 64 } }, user);
  let open = false;
  let asked = 0;
  kube.admit = (resource) => {
    if (resource.kind !== "Pod") return;
    asked += 1;
    if (!open) throw new AppError("exceeded quota: q", { code: "Forbidden", retry: "backoff" });
  };
  const dryRuns = kube.create;
  kube.create = async (resource, object, options) => (options.dryRun ? object : dryRuns(resource, object, options));
  const operator = await startOperator(kube);
  await sleep(1_000);
  assert.ok(asked >= 2 && asked <= 12, `${asked} pods are asked for in a second of refusals`);
  open = true;
  await until("all are made", () => pods(kube).length === 64, 30_000);
  await operator.stop();
});
