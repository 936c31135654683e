import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { kinds } from "../../../crds/index.ts";
import { moeDeploymentSpecSchema } from "../../../crds/moe-deployment.ts";
import { parseGatewayConfig, parseWorkerConfig } from "../../../runtime/config.ts";
import { deployment, model, now, pod, settings, snapshot, view } from "../../../test/builders/deployment.ts";
import { resources } from "../../kube/kube.ts";
import { operatorRules, rulesOf, type Scope } from "../../rbac.ts";
import { memoryRefusals } from "../core/memory.ts";
import { nextStatus } from "../core/status.ts";
import { targetRanks } from "../core/target.ts";
import { roleFile, roleTemplate } from "../generate-role.ts";
import type { RenderContext } from "./context.ts";
import { appliedObjects } from "./index.ts";
import { workerPod, workerTemplate } from "./worker-pod.ts";

const Mi = 2 ** 20;
const context = (spec: object = {}, more: Partial<RenderContext> = {}): RenderContext => ({
  deployment: deployment(spec),
  settings,
  ...more,
});
const worker = (spec: object = {}) => workerPod(context(spec), workerTemplate(context(spec)), 2, "abcde") as any;
const gateway = (spec: object = {}) => appliedObjects(context(spec)).find(({ object }) => object.kind === "Deployment")?.object as any;
/** The environment as the container sees it, with the downward fields filled in. */
const env = (container: any): Record<string, string> =>
  Object.fromEntries(
    container.env.map((one: any) => [
      one.name,
      one.value ?? { "metadata.labels['enodia.dev/rank']": "2" }[one.valueFrom.fieldRef.fieldPath as string] ?? "x",
    ]),
  );

test("what is rendered for workers and gateways is what the runtime reads from its environment", () => {
  const spec = {
    model: { uri: "pvc://models/a/b", servedName: "moe-8x" },
    runtime: { backend: "cpu", expertCodec: "f32", maxContext: 512, kvPool: "64Mi" },
    experts: { memoryPerRank: "1Gi" },
    telemetry: { nats: { credentialsSecretRef: { name: "creds" } } },
    gateway: { apiKeySecretRef: { name: "key" } },
  };
  const config = parseWorkerConfig(env(worker(spec).spec.containers[0]));
  assert.equal(config.rank, 2);
  assert.equal(config.modelDir, "/models/a/b");
  assert.equal(config.expertBudgetBytes, 2 ** 30);
  assert.equal(config.kvPoolBytes, 64 * Mi);
  assert.equal(config.peersDns, "moe-workers.ns.svc");
  assert.equal(config.natsUrl, "nats://nats.test:4222");
  assert.equal(config.natsCreds, "/etc/enodia/nats", "whatever keys the Secret has: a template that followed them would roll the workers");
  const front = gateway(spec).spec.template.spec.containers[0];
  assert.equal(parseGatewayConfig(env(front)).apiKeyFile, "/etc/enodia/api-key/key");
  assert.equal(parseGatewayConfig(env(front)).servedName, "moe-8x");
});

test("every variable of the runtime is rendered, or a pod template can set it", () => {
  const spec = {
    telemetry: { nats: { credentialsSecretRef: { name: "creds" } } },
    gateway: { apiKeySecretRef: { name: "key" } },
    podTemplate: {
      spec: {
        containers: [
          {
            name: "runtime",
            env: [
              { name: "ENODIA_THREADS", value: "3" },
              { name: "ENODIA_QUEUE_REQUESTS_MAX", value: "64" },
            ],
          },
        ],
      },
    },
  };
  const traced = context(spec, { settings: { ...settings, otlpEndpoint: "http://otel.test:4318" } });
  const template = workerTemplate(traced);
  assert.deepEqual(template.refusals, []);
  const rank = env((workerPod(traced, template, 2, "abcde") as any).spec.containers[0]);
  const deployed = appliedObjects(traced).find(({ object }) => object.kind === "Deployment")?.object as any;
  const front = env(deployed.spec.template.spec.containers[0]);
  assert.equal(parseWorkerConfig(rank).threads, 3);
  assert.equal(parseGatewayConfig(front).queueRequestsMax, 64);
  assert.ok(!("ENODIA_QUEUE_REQUESTS_MAX" in rank), "a setting of the gateway must not roll the workers");
  const read = readFileSync(join(import.meta.dirname, "../../../runtime/config.ts"), "utf8").match(/ENODIA_\w+(?=:)/g) ?? [];
  assert.ok(read.length > 20);
  assert.deepEqual(
    read.filter((name) => !(name in rank) && !(name in front)),
    [],
  );
});

test("pods keep to the restricted Pod Security level and hold no API token", () => {
  const apiKey = { gateway: { apiKeySecretRef: { name: "key" } } };
  for (const spec of [worker(apiKey).spec, gateway(apiKey).spec.template.spec]) {
    assert.equal(spec.automountServiceAccountToken, false);
    assert.equal(spec.securityContext.runAsNonRoot, true);
    assert.equal(spec.securityContext.seccompProfile.type, "RuntimeDefault");
    for (const container of spec.containers) {
      assert.deepEqual(container.securityContext, {
        allowPrivilegeEscalation: false,
        readOnlyRootFilesystem: true,
        capabilities: { drop: ["ALL"] },
      });
    }
    for (const volume of spec.volumes) {
      assert.ok(volume.emptyDir || volume.secret || volume.persistentVolumeClaim, `volume ${volume.name} is of no allowed kind`);
    }
    assert.ok(spec.containers[0].volumeMounts.filter((mount: any) => mount.name !== "tmp").every((mount: any) => mount.readOnly));
  }
});

test("the hash speaks of the template, not of the rank or the name", () => {
  const template = workerTemplate(context());
  const one = workerPod(context(), template, 0, "aaaaa");
  const two = workerPod(context(), template, 1, "bbbbb");
  assert.equal(one.metadata.annotations?.["enodia.dev/template-hash"], two.metadata.annotations?.["enodia.dev/template-hash"]);
  assert.notEqual(workerTemplate(context({ runtime: { maxContext: 64 } })).hash, template.hash);
  assert.equal(workerTemplate(context({ replicas: 9 })).hash, template.hash);
});

test("experts that do not fit are refused with what would make them fit, and following the advice is enough", () => {
  const spec = (memoryPerRank: string, replicas = 2) => deployment({ experts: { memoryPerRank }, replicas }).spec;
  const message = memoryRefusals(spec("6Mi"), model, 2, undefined)[0]?.message ?? "";
  assert.equal(
    message,
    "experts need 16Mi, 2 ranks x 6Mi = 12Mi (one slot of 1Mi per rank stages moves): raise memoryPerRank to 9Mi or replicas to 4",
  );
  assert.deepEqual(memoryRefusals(spec("9Mi"), model, 2, undefined), []);
  assert.deepEqual(memoryRefusals(spec("6Mi"), model, 4, undefined), []);
  assert.deepEqual(memoryRefusals(spec("6Mi"), undefined, 2, undefined), [], "sizes are not known before a worker told them");
  assert.deepEqual(memoryRefusals(spec("6Mi"), model, 0, undefined), []);
  const [limit] = memoryRefusals(spec("9Mi"), model, 2, 256 * Mi);
  assert.equal(limit?.reason, "InsufficientMemoryLimit");
  assert.match(limit?.message ?? "", /above the memory limit 256Mi .*raise the limit or lower memoryPerRank/);
  const gpu = deployment({ experts: { memoryPerRank: "9Mi" }, replicas: 2, runtime: { backend: "webgpu" } }).spec;
  assert.deepEqual(memoryRefusals(gpu, model, 2, 256 * Mi), [], "memory of a device is not the container's");
});

/** Every leaf of the spec with a value other than its default. A field missing here fails the test below. */
const changes: Record<string, unknown> = {
  suspend: true,
  "model.uri": "pvc://other/moe",
  "model.servedName": "other",
  replicas: 7,
  "experts.memoryPerRank": "3Gi",
  "runtime.backend": "cpu",
  "runtime.expertCodec": "f32",
  "runtime.maxContext": 64,
  "runtime.kvPool": "7Mi",
  "rebalancing.trigger.window": "2s",
  "telemetry.nats.url": "nats://other:4222",
  "telemetry.nats.credentialsSecretRef.name": "creds",
  "telemetry.nats.subjectPrefix": "other",
  "podTemplate.metadata.labels": { a: "b" },
  "podTemplate.metadata.annotations": { a: "b" },
  "podTemplate.spec.containers": [{ name: "runtime", image: "other" }],
  "gateway.replicas": 5,
  "gateway.apiKeySecretRef.name": "key",
  "gateway.apiKeySecretRef.key": "other",
  "gateway.podTemplate.metadata.labels": { a: "b" },
  "gateway.podTemplate.metadata.annotations": { a: "b" },
  "gateway.podTemplate.spec.containers": [{ name: "gateway", image: "other" }],
  "service.port": 81,
  "elasticity.settle": "9s",
  "elasticity.operationTimeout": "9s",
  "failurePolicy.minServingReplicas": 3,
};
/** Fields that decide what the planner and the drains do: read there by name. */
const readByRebalance = [
  "experts.minCopies",
  "rebalancing.mode",
  "rebalancing.policy",
  "trigger.imbalancePercent",
  "trigger.minTokens",
  "rebalancing.interval",
  "budget.maxMoves",
  "budget.maxMovesPerRank",
  "budget.maxBytes",
  "budget.maxTransferBytesPerSecond",
  "telemetry.staleAfter",
  "elasticity.drain",
];
/** Fields the API server alone enforces, by CEL; the integration test asks it. */
const enforcedByServer = [
  "elasticity.minReplicas",
  "elasticity.maxReplicas",
  "podTemplate.metadata.name",
  "podTemplate.metadata.namespace",
];

function leaves(schema: any, path: string[] = []): string[] {
  const children = Object.entries(schema.properties ?? {});
  return children.length === 0 ? [path.join(".")] : children.flatMap(([name, child]) => leaves(child, [...path, name]));
}

function put(path: string, value: unknown): any {
  const [head = "", ...rest] = path.split(".");
  return { [head]: rest.length === 0 ? value : put(rest.join("."), value) };
}

test("no field of the spec is silently ignored", async () => {
  const { structuralSchema } = await import("../../../crds/openapi.ts");
  assert.ok(kinds.length > 0);
  const all = leaves(structuralSchema(moeDeploymentSpecSchema, "spec"));
  const covered = (path: string) => path in changes || [...readByRebalance, ...enforcedByServer].some((known) => path.endsWith(known));
  assert.deepEqual(
    all.filter((path) => !covered(path)),
    [],
    "fields that nothing is known of",
  );

  // What a deployment leads to: objects, the worker pod, the target, the status.
  const effects = (spec: any): string => {
    const base = { model: { uri: "pvc://models/moe" }, replicas: 3 };
    const merged = { ...base, ...spec, model: { ...base.model, ...spec.model } };
    const object = deployment(merged, { expertParallel: { desiredRanks: 2, activeRanks: 2 } });
    const target = targetRanks(object, now);
    const pods = [pod(0), pod(1, { ready: false })];
    const seen = snapshot({ deployment: object, pods, view: view() });
    const status = nextStatus({ snapshot: seen, target, refusals: [], actions: [], blocked: undefined, failure: "" });
    return JSON.stringify([
      appliedObjects(context(merged)),
      workerPod(context(merged), workerTemplate(context(merged)), 0, "x"),
      target,
      status,
    ]);
  };
  const secret = { gateway: { apiKeySecretRef: { name: "key" } } };
  for (const [path, value] of Object.entries(changes)) {
    const spec = put(path, value);
    const before = path === "gateway.apiKeySecretRef.key" ? secret : {};
    if (path === "gateway.apiKeySecretRef.key") spec.gateway.apiKeySecretRef.name = "key";
    assert.ok(effects(spec) !== effects(before), `spec.${path} changes nothing`);
  }
  const source = globSync("operator/{rebalance,planner}/**/*.ts", { cwd: join(import.meta.dirname, "../../..") })
    .filter((file) => !file.endsWith(".test.ts"))
    .map((file) => readFileSync(join(import.meta.dirname, "../../..", file), "utf8"))
    .join("\n");
  for (const path of readByRebalance)
    assert.match(source, new RegExp(`\\.${path.split(".").at(-1)}\\b`), `spec.${path} is read nowhere in the rebalance plane`);
});

test("the chart's roles are the operator's rules, and the rules cover every resource it touches, each no wider than it has to be", () => {
  assert.equal(readFileSync(roleFile, "utf8"), roleTemplate());
  const touched = Object.values(resources).filter(
    (resource) => !["ConfigMap", "Namespace", "CustomResourceDefinition"].includes(resource.kind),
  );
  for (const resource of touched) {
    const group = resource.apiVersion.includes("/") ? (resource.apiVersion.split("/")[0] ?? "") : "";
    assert.ok(
      operatorRules.some((rule) => rule.apiGroups.includes(group) && rule.resources.includes(resource.plural)),
      `${group}/${resource.plural} is not granted`,
    );
  }
  const granted = (scope: Scope) => rulesOf(scope).flatMap((rule) => rule.resources);
  assert.deepEqual(granted("cluster"), ["nodes"]);
  assert.deepEqual(granted("release"), ["leases"]);
});
