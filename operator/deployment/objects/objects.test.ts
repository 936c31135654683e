import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { parseGatewayConfig, parseWorkerConfig } from "../../../runtime/config.ts";
import { deployment, model, settings } from "../../../test/builders/deployment.ts";
import { restrictedFaults } from "../../../test/harness/pod-security.ts";
import { resources } from "../../kube/kube.ts";
import { operatorRules, rulesOf, type Scope } from "../../rbac.ts";
import { memoryRefusals } from "../core/memory.ts";
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
    assert.deepEqual(restrictedFaults(spec), []);
    assert.equal(spec.automountServiceAccountToken, false);
    for (const container of spec.containers) assert.equal(container.securityContext.readOnlyRootFilesystem, true);
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

const spec = (memoryPerRank: string, replicas = 2) => deployment({ experts: { memoryPerRank }, replicas }).spec;

test("experts that do not fit are refused with what would make them fit, and following the advice is enough", () => {
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

test("experts of unlike sizes are counted in bytes, layers without experts not at all", () => {
  // One layer of 2 experts of 4 Mi, two of 8 of half a Mi, one without: 16 Mi in all.
  const unlike = { ...model, layers: 4, experts: 8, layerExperts: [0, 2, 8, 8], expertBytes: 16 * Mi, largestExpertBytes: 4 * Mi };
  assert.deepEqual(memoryRefusals(spec("16Mi"), unlike, 2, undefined), [], "16 Mi fit beside what at most stays unused");
  const [refusal] = memoryRefusals(spec("10Mi"), unlike, 2, undefined);
  assert.match(refusal?.message ?? "", /raise memoryPerRank to 16Mi or replicas to 8$/);
  assert.deepEqual(memoryRefusals(spec("10Mi"), unlike, 8, undefined), []);
  const few = { ...unlike, layerExperts: [0, 2, 0, 0], expertBytes: 8 * Mi };
  assert.deepEqual(memoryRefusals(spec("8Mi"), few, 2, undefined), [], "two experts, one a rank, each beside a staging slot");
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
