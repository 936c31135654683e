// No field of the spec is silently ignored: each is rendered, decides what the rebalance plane does, or is enforced by the API server, and
// the tests show what follows when it changes. Numbers, switches and names of a list need no row: the schema says another value.

import assert from "node:assert/strict";
import { test } from "node:test";
import { type MoEDeployment, moeDeploymentSpecSchema } from "../crds/moe-deployment.ts";
import { structuralSchema } from "../crds/openapi.ts";
import { judgeRoll, rollRules } from "../operator/deployment/core/rollout.ts";
import { pinnedImage } from "../operator/deployment/core/runtime-image.ts";
import { holdMs } from "../operator/deployment/features/autoscale/zero.ts";
import { currentOperation } from "../operator/deployment/features/progress.ts";
import { targetRanks } from "../operator/deployment/features/ranks.ts";
import { rolloutView } from "../operator/deployment/features/rollout-status.ts";
import { nextStatus } from "../operator/deployment/features/status.ts";
import { downloadJob } from "../operator/deployment/objects/download-job.ts";
import { gatewayTemplate } from "../operator/deployment/objects/gateway.ts";
import { appliedObjects } from "../operator/deployment/objects/index.ts";
import { downloadJobName } from "../operator/deployment/objects/model-place.ts";
import { workerPod, workerTemplate } from "../operator/deployment/objects/worker-pod.ts";
import { scales, servingRanks } from "./kit/deployment/autoscale.ts";
import { deployment, now, pod, settings, snapshot, view } from "./kit/deployment/deployment.ts";
import { outcomeOf, rebalancePlane } from "./kit/rebalanced-fields.ts";

type Json = any;

/** Paths of the fields of a schema that have none of their own, with their schemas. */
function leaves(schema: Json, path: string[] = []): [string, Json][] {
  const children = Object.entries(schema.properties ?? {});
  return children.length === 0 ? [[path.join("."), schema]] : children.flatMap(([name, child]) => leaves(child, [...path, name]));
}

/** A value that the schema allows and that is not its default; undefined where a row below has to give one. */
function otherValue({ type, enum: names, default: usual, minimum = 0, maximum = Number.POSITIVE_INFINITY }: Json): unknown {
  if (type === "boolean") return usual !== true;
  if (names !== undefined) return names.find((name: string) => name !== usual);
  if (type !== "integer") return undefined;
  const next = (usual ?? minimum) + 1;
  return next <= maximum ? next : next - 2;
}

/** Values of fields whose schema says none, and of those that show only with another value. */
const chosen: Record<string, unknown> = {
  "model.uri": "pvc://other/moe",
  "model.servedName": "other",
  "model.secretRef.name": "token",
  "model.cache.persistentVolumeClaim.claimName": "other",
  "model.cache.ephemeral.sizeLimit": "7Gi",
  ...Object.fromEntries(
    ["requests", "limits"].flatMap((kind) =>
      ["cpu", "memory", "ephemeral-storage"].map((name) => [`model.resources.${kind}.${name}`, "7"]),
    ),
  ),
  replicas: 7,
  "experts.memoryPerRank": "3Gi",
  "runtime.kvPool": "7Mi",
  "runtime.deviceExpertMemory": "7Mi",
  "runtime.deviceDenseMemory": "7Mi",
  "runtime.kvOffload.memory": "7Mi",
  "runtime.kvOffload.disk": "7Mi",
  "runtime.decodeWait": "70ms",
  "runtimeImage.image": "enodia/runtime:other",
  "rolloutStrategy.maxSurge": 2,
  "rolloutStrategy.maxUnavailable": 1,
  "rolloutStrategy.progressDeadline": "20m",
  "rolloutStrategy.canary.ranks": 2,
  "rolloutStrategy.canary.analysis.bake": "2h",
  "rolloutStrategy.canary.analysis.errorRatePercent": 0,
  "rolloutStrategy.canary.analysis.latencyPercent": 100,
  "rolloutStrategy.canary.analysis.minRequests": 30,
  "rebalancing.trigger.window": "2s",
  "telemetry.nats.url": "nats://other:4222",
  "telemetry.nats.credentialsSecretRef.name": "creds",
  "telemetry.nats.subjectPrefix": "other",
  "scheduling.topology.key": "example.com/row",
  "scheduling.topology.mode": "Spread",
  "scheduling.gang": "Coscheduling",
  "podTemplate.metadata.labels": { a: "b" },
  "podTemplate.metadata.annotations": { a: "b" },
  "podTemplate.spec.containers": [{ name: "runtime", image: "other" }],
  "gateway.autoscale.maxReplicas": 8,
  "gateway.apiKeySecretRef.name": "key",
  "gateway.apiKeySecretRef.key": "other",
  "gateway.jwt.issuer": "https://issuer.test",
  "gateway.jwt.audience": "moe",
  "gateway.jwt.jwksUri": "https://issuer.test/keys",
  "gateway.jwt.claims.client": "azp",
  "gateway.jwt.claims.priority": "rank",
  "gateway.tls.secretRef.name": "cert",
  "gateway.cors.allowOrigins": ["https://app.example.com"],
  "gateway.clients": [{ name: "batch", requestsPerMinute: 5 }],
  "gateway.httpRoute.parentRefs": [{ name: "other" }],
  "gateway.httpRoute.hostnames": ["llm.example.com"],
  "gateway.httpRoute.pathPrefix": "/chat",
  "gateway.httpRoute.modelHeader": "X-Model",
  "gateway.httpRoute.timeouts.request": "5m",
  "gateway.httpRoute.timeouts.backendRequest": "5m",
  "gateway.podTemplate.metadata.labels": { a: "b" },
  "gateway.podTemplate.metadata.annotations": { a: "b" },
  "gateway.podTemplate.spec.containers": [{ name: "gateway", image: "other" }],
  "elasticity.settle": "9s",
  "elasticity.operationTimeout": "9s",
  "elasticity.autoscale.min": 4,
  "elasticity.autoscale.max": 5,
  "elasticity.autoscale.metrics": [{ name: "kvUse", target: 20 }],
  "elasticity.autoscale.behaviour.scaleUp.stabilizationWindow": "1m",
  "elasticity.autoscale.behaviour.scaleUp.maxRanks": 1,
  "elasticity.autoscale.behaviour.scaleUp.period": "1m",
  "elasticity.autoscale.behaviour.scaleDown.stabilizationWindow": "10m",
  "elasticity.autoscale.behaviour.scaleDown.maxRanks": 3,
  "elasticity.autoscale.behaviour.scaleDown.period": "2m",
  "elasticity.autoscale.scaleToZero.idleAfter": "1m",
  "elasticity.autoscale.scaleToZero.holdTimeout": "1m",
  "failurePolicy.minServingReplicas": 3,
};

/** Fields the API server alone enforces, by CEL; the integration test asks it. */
const enforcedByServer = [
  "elasticity.minReplicas",
  "elasticity.maxReplicas",
  ...["podTemplate", "gateway.podTemplate"].flatMap((path) => [`${path}.metadata.name`, `${path}.metadata.namespace`]),
];

const fields = leaves(structuralSchema(moeDeploymentSpecSchema, "spec"));
/** Fields that objects, pods, the target or the status follow, with another value each. */
const changes: Readonly<Record<string, unknown>> = Object.fromEntries(
  fields
    .filter(([path]) => !(path in rebalancePlane) && !enforcedByServer.includes(path))
    .map(([path, schema]) => [path, chosen[path] ?? otherValue(schema)]),
);

function put(path: string, value: unknown): any {
  const [head = "", ...rest] = path.split(".");
  return { [head]: rest.length === 0 ? value : put(rest.join("."), value) };
}

/** The effects of a deployment: objects, the worker pod, the target, the status. */
function effects(spec: any): string {
  const base = { model: { uri: "pvc://models/moe" }, replicas: 3 };
  const merged = { ...base, ...spec, model: { ...base.model, ...spec.model } };
  const object = deployment(merged, { expertParallel: { desiredRanks: 2, activeRanks: 2 } });
  const target = targetRanks(object, now);
  const pods = [pod(0), pod(1, { ready: false })];
  const seen = snapshot({ deployment: object, pods, view: view() });
  const operation = currentOperation({ snapshot: seen, ranks: target.ranks, actions: [], blocked: undefined, note: "" });
  const calm = { failure: "", failures: [], judgeError: "", createError: "", floor: undefined, rollout: undefined };
  const status = nextStatus({ snapshot: seen, target, operation, refusals: [], blocked: undefined, ...calm });
  const sources = { status: object.status, accepted: "enodia/runtime:before", pods, offered: settings.runtimeImage, own: undefined };
  const runtimeImage = pinnedImage({ spec: object.spec, ...sources });
  const context = { deployment: deployment(merged), settings: { ...settings, runtimeImage }, routable: true };
  const job = downloadJobName(context.deployment);
  const download = job === undefined ? undefined : downloadJob(context, job);
  const worker = workerPod(context, workerTemplate(context), 0, "x");
  return JSON.stringify([appliedObjects(context), download, worker, target, status, rollOf(merged), scalesOf(object)]);
}

/** What becomes of a roll of which one rank has the new template and does not start. */
function rollOf(spec: object): unknown {
  const rollout = { phase: "Progressing", templateHash: "new", stableTemplateHash: "old", bakeStart: "2026-03-01T09:00:00Z" };
  const pods = [pod(0, { templateHash: "old" }), pod(1, { templateHash: "old" }), pod(2, { ready: false })];
  const revisions = [
    { number: 2, templateHash: "new" },
    { number: 1, templateHash: "old" },
  ];
  const late = pods.map((one) => (one.ready ? one : { ...one, unreadySinceMs: now.getTime() - 700_000 }));
  const serving = pods.map((one) => ({ ...one, ready: true }));
  const seen = (of: typeof pods) =>
    snapshot({ deployment: deployment(spec, { rollout }), pods: of, view: view(), rollout: { revisions, rolledBack: undefined } });
  const comparison = {
    canaries: { requests: 25, failed: 1, gaps: 100, gapMicros: 2_000_000 },
    others: { requests: 25, failed: 0, gaps: 100, gapMicros: 1_000_000 },
  };
  const canaries = { ...seen(serving), rollout: { revisions, rolledBack: undefined, comparison } };
  return [rollRules(seen(pods), 3), judgeRoll(seen(late)).failure, judgeRoll(canaries).failure, rolloutView(canaries, 3, undefined).status];
}

/** The numbers that the autoscaler sets while there is much to do, and then nothing. */
function scalesOf({ spec }: MoEDeployment): unknown {
  const rested = (second: number) => ({ name: "g", idleMs: (second - 200) * 1_000, wantsRanks: false, holds: true });
  const nobody = { serving: servingRanks(1, 0).map((one) => ({ ...one, activeRequests: 0 })) };
  const look = (second: number) => (second < 200 ? {} : { ...nobody, gateways: [rested(second)] });
  const busyThenIdle = { ranks: 3, seconds: 1_200, load: (second: number) => (second < 200 ? 3_000 : 0), look };
  const { autoscale } = spec.elasticity;
  const last = { ...{ spec: { replicas: 0, suspend: false }, lastScale: { from: 3, to: 0 }, operation: undefined, present: 0 } };
  const held = holdMs({ ...last, autoscale, anyActive: false, known: undefined });
  return autoscale && [held, scales(autoscale, busyThenIdle).steps.map(({ second, to }) => [second, to])];
}

test("every field of the spec has another value to try, and every row is of a field", () => {
  const paths = fields.map(([path]) => path);
  assert.deepEqual(
    Object.keys(changes).filter((path) => changes[path] === undefined),
    [],
    "give it a value above, or a row of what it decides",
  );
  const rows = [...Object.keys(chosen), ...Object.keys(rebalancePlane), ...enforcedByServer];
  assert.deepEqual(
    rows.filter((path) => !paths.includes(path)),
    [],
  );
});

/** A model that is downloaded, beside which fields of the download may stand. */
const remote = { model: { uri: "hf://org/name", cache: { persistentVolumeClaim: { claimName: "models" } } } };
const besideRemote = ["model.secretRef.", "model.cache.", "model.resources."];

const audience = "enodia";
const issuer = "https://id.test";
const route = { httpRoute: { parentRefs: [{ name: "public" }] } };
const tokens = { jwt: { issuer, audience } };
/** Fields of the gateway beside which another is required. */
const beside: Readonly<Record<string, any>> = {
  "gateway.apiKeySecretRef.key": { apiKeySecretRef: { name: "key" } },
  "gateway.jwt.issuer": { jwt: { audience } },
  "gateway.jwt.audience": { jwt: { issuer } },
  "gateway.jwt.jwksUri": tokens,
  "gateway.jwt.claims.client": tokens,
  "gateway.jwt.claims.priority": tokens,
  "gateway.httpRoute.hostnames": route,
  "gateway.httpRoute.pathPrefix": route,
  "gateway.httpRoute.modelHeader": route,
  "gateway.httpRoute.timeouts.request": route,
  "gateway.httpRoute.timeouts.backendRequest": route,
  "gateway.autoscale.minReplicas": { autoscale: { maxReplicas: 9 } },
  "gateway.autoscale.targetCPUUtilizationPercentage": { autoscale: { maxReplicas: 9 } },
};

/** Fields that decide only where another one is there. */
const withCanary = { rolloutStrategy: { canary: {} } };
const withAutoscale = { elasticity: { autoscale: { max: 9, metrics: [{ name: "queuedTokensPerRank", target: 300 }] } } };
const bases: Readonly<Record<string, object>> = {
  ...Object.fromEntries(
    Object.keys(changes)
      .filter((path) => path.startsWith("elasticity.autoscale."))
      .map((path) => [path, withAutoscale]),
  ),
  "rolloutStrategy.canary.ranks": withCanary,
  "rolloutStrategy.canary.analysis.bake": withCanary,
  "rolloutStrategy.canary.analysis.errorRatePercent": withCanary,
  "rolloutStrategy.canary.analysis.latencyPercent": withCanary,
  "scheduling.topology.key": { scheduling: { topology: { key: "example.com/rack", mode: "Pack" } } },
  "scheduling.topology.mode": { scheduling: { topology: { key: "example.com/rack", mode: "Pack" } } },
  "rolloutStrategy.canary.analysis.minRequests": { rolloutStrategy: { canary: { analysis: { latencyPercent: 100 } } } },
  "experts.prefetch": { experts: { oversubscription: "Allow" } },
  "runtime.kvOffload.disk": { runtime: { kvOffload: { memory: "3Mi" } } },
  "gateway.jwt.issuer": { gateway: tokens },
  "gateway.jwt.audience": { gateway: tokens },
};

/** A spec without a change and with it. */
const edits = Object.entries(changes).map(([path, value]) => {
  const change = put(path, value);
  if (besideRemote.some((beginning) => path.startsWith(beginning)))
    return { path, base: remote, change: { model: { ...remote.model, ...change.model } } };
  for (const [name, fields] of Object.entries<object>(beside[path] ?? {})) Object.assign(change.gateway[name], fields);
  if (path.startsWith("scheduling.topology."))
    change.scheduling.topology = { key: "example.com/rack", mode: "Pack", ...change.scheduling.topology };
  if (path.startsWith("elasticity.autoscale."))
    change.elasticity.autoscale = { ...withAutoscale.elasticity.autoscale, ...change.elasticity.autoscale };
  if (path === "experts.prefetch") change.experts.oversubscription = "Allow";
  if (path.endsWith("kvOffload.disk")) change.runtime.kvOffload.memory = "3Mi";
  if (path.endsWith(".minRequests")) change.rolloutStrategy.canary.analysis.latencyPercent = 100;
  return { path, base: bases[path] ?? (beside[path] ? { gateway: beside[path] } : {}), change };
});

test("what is rendered, wanted or reported follows every field that it is said to follow", () => {
  for (const { path, base, change } of edits) assert.ok(effects(change) !== effects(base), `spec.${path} changes nothing`);
});

test("a pod is out of date for what changes it in the spec, and for nothing else", () => {
  const rows = Object.entries(rebalancePlane).map(([path, { base = {}, change }]) => ({ path, base, change }));
  for (const { path, base, change } of [...edits, ...rows]) {
    for (const template of [workerTemplate, gatewayTemplate]) {
      const [was, is] = [base, change].map((spec: any) =>
        template({ deployment: deployment({ ...spec, model: { uri: "pvc://models/moe", ...spec.model } }), settings }),
      );
      const changed = JSON.stringify(was?.pod) !== JSON.stringify(is?.pod);
      const why = changed
        ? "changes a pod: it belongs into the hash, operator/deployment/objects/pod-hash.ts"
        : "changes no pod and would replace them";
      assert.equal(was?.hash !== is?.hash, changed, `spec.${path} ${why}`);
    }
  }
});

for (const [path, { base, change, outcome, ...expected }] of Object.entries(rebalancePlane))
  test(`spec.${path} decides what the rebalance plane does`, async () => {
    assert.deepEqual(await outcomeOf(base, outcome), expected.without);
    assert.deepEqual(await outcomeOf(change, outcome), expected.with);
  });
