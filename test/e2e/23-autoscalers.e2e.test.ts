// Autoscalers that others make: KEDA reads the requests in work from a real Prometheus and makes a HorizontalPodAutoscaler, which the
// cluster's own controller follows through `/scale`. Ranks come under load and go without it; no request fails, no pod that stays restarts.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { parse } from "yaml";
import { root, serviceAddress, type Target, waitReady, workerPods } from "../kit/deployment/product.ts";
import { type Load, startLoad } from "../kit/gateway/traffic-load.ts";
import { type Keda, startKeda } from "../kit/kube/keda.ts";
import { until } from "../kit/processes/process.ts";
import type { Prometheus } from "../kit/processes/prometheus.ts";
import { explainFailures } from "./diagnose.ts";
import { openPrometheus } from "./prometheus-world.ts";
import { type Deployed, deploy, openWorld, remove, smolMoe } from "./world.ts";

const name = "scaled";
const namespace = "e2e-autoscalers";
const [least, most] = [2, 4];
const clients = 8;
const scaledWithinMs = 240_000;

let target: Target;
let moe: Deployed;
let prometheus: Prometheus;
let keda: Keda | undefined;
let load: Load | undefined;

const log = (line: string): void => void process.stderr.write(`# ${line}\n`);

explainFailures(() => moe);
before(async () => {
  target = await openWorld();
  moe = await deploy(target, namespace, smolMoe(name, { replicas: least, experts: { memoryPerRank: "250Mi" } }));
  prometheus = await openPrometheus(target);
  keda = await startKeda(target, log);
});
after(async () => {
  await load?.stop();
  await moe?.kubectl.try(["delete", "scaledobject", name, "--ignore-not-found", "--timeout=30s"]);
  await keda?.stop();
  await prometheus?.stop();
  if (moe) await remove(moe);
});

/** That of the guide, for this deployment and with times for a test. */
function scaledObject(serverAddress: string): object {
  const guide = readFileSync(join(root, "operator/docs/elasticity.md"), "utf8");
  const [, text = ""] = /```yaml\n([^`]*kind: ScaledObject[^`]*)```/.exec(guide) ?? [];
  const object = parse(text.replaceAll("my-moe", name).replaceAll('namespace="default"', `namespace="${namespace}"`));
  const [trigger] = object.spec.triggers;
  assert.deepEqual([object.spec.minReplicaCount, object.spec.maxReplicaCount], [least, most]);
  const horizontalPodAutoscalerConfig = { behavior: { scaleDown: { stabilizationWindowSeconds: 15 } } };
  const triggers = [{ ...trigger, metadata: { ...trigger.metadata, serverAddress } }];
  return { ...object, spec: { ...object.spec, pollingInterval: 2, advanced: { horizontalPodAutoscalerConfig }, triggers } };
}

const replicas = async (): Promise<number> => (await moe.kubectl.get("moed", name)).spec.replicas;

test("KEDA makes an autoscaler of the deployment, and the autoscaler knows its pods", async () => {
  await moe.kubectl.apply(scaledObject(prometheus.url));
  const active = async () => {
    const hpa = await moe.kubectl.get("hpa", `keda-hpa-${name}`);
    const conditions: { type: string; status: string; message: string }[] = hpa.status?.conditions ?? [];
    const able = conditions.find(({ type }) => type === "ScalingActive");
    if (able?.status !== "True") throw new Error(JSON.stringify(conditions));
    return hpa;
  };
  const hpa = await until("the autoscaler to be active", active, { timeoutMs: 90_000 }).catch((error) => {
    throw new Error(`${String(error)}\n${keda?.said()}`);
  });
  assert.equal(hpa.spec.scaleTargetRef.kind, "MoEDeployment");
});

test("under load ranks come, and all of them serve", { timeout: 600_000 }, async () => {
  const { url } = await serviceAddress(target, moe.kubectl, { name, namespace });
  load = startLoad({ url: () => url, model: name, clients, topic: "story", maxTokens: 48 });
  await until("the autoscaler to ask for all ranks", async () => ((await replicas()) === most ? true : undefined), {
    timeoutMs: scaledWithinMs,
  });
  await waitReady(moe.kubectl, name, scaledWithinMs);
  assert.equal((await workerPods(moe.kubectl, name)).length, most);
  assert.equal(load.counts.failed, 0, load.errors[0]);
});

test("without load ranks go, and those that stay are those that were", { timeout: 600_000 }, async () => {
  const were = new Map((await workerPods(moe.kubectl, name)).map(({ metadata }) => [metadata.name, metadata.uid]));
  await load?.stop();
  await until("the autoscaler to ask for the least", async () => ((await replicas()) === least ? true : undefined), {
    timeoutMs: scaledWithinMs,
  });
  await waitReady(moe.kubectl, name, scaledWithinMs);
  const gone = async () => {
    const pods = await workerPods(moe.kubectl, name);
    return pods.length === least ? pods : undefined;
  };
  const left = await until("the other pods to be gone", gone, { timeoutMs: 60_000 });
  for (const { metadata, status } of left) {
    assert.equal(were.get(metadata.name), metadata.uid);
    assert.equal(status.containerStatuses[0].restartCount, 0);
  }
  assert.equal(load?.counts.failed, 0, load?.errors[0]);
});
