// Templates of the spec: what they do to the pods of workers and gateways, and what they may not do.
import assert from "node:assert/strict";
import { test } from "node:test";
import { deployment, settings } from "../../test/kit/deployment/deployment.ts";
import type { RenderContext } from "../deployment/objects/context.ts";
import { gatewayDeployment, gatewayTemplate } from "../deployment/objects/gateway.ts";
import { workerTemplate } from "../deployment/objects/worker-pod.ts";

const context = (spec: object): RenderContext => ({ deployment: deployment(spec), settings });
const gateway = (spec: object) => gatewayDeployment(context(spec)) as any;

test("a pod template is merged by name, and what is the operator's is refused by field", () => {
  const podTemplate = {
    metadata: { labels: { team: "search" } },
    spec: {
      nodeSelector: { gpu: "h100" },
      volumes: [{ name: "scratch", emptyDir: {} }],
      containers: [
        { name: "runtime", image: "mine:1", resources: { limits: { memory: "2Gi" } }, env: [{ name: "X", value: "1" }] },
        { name: "sidecar", image: "side:1" },
      ],
    },
  };
  const { pod: merged, refusals, limitBytes } = workerTemplate(context({ podTemplate }));
  assert.deepEqual(refusals, []);
  assert.equal(limitBytes, 2 * 2 ** 30);
  assert.equal(merged.labels.team, "search");
  assert.equal(merged.spec.containers[0]?.image, "mine:1");
  assert.equal((merged.spec.containers as any)[0].env.at(-1).name, "X");
  assert.equal(merged.spec.containers[1]?.name, "sidecar");
  assert.equal(gateway({ podTemplate }).spec.template.spec.containers[0].image, "mine:1", "gateways run the same build");

  const bad: Record<string, object> = {
    "spec.podTemplate.spec.hostNetwork must be false": { spec: { hostNetwork: true } },
    "spec.podTemplate.spec.restartPolicy must be Always": { spec: { restartPolicy: "Never" } },
    "spec.podTemplate.spec.automountServiceAccountToken must be false": { spec: { automountServiceAccountToken: true } },
    "spec.podTemplate.spec.hostname is the operator's": { spec: { hostname: "x" } },
    "spec.podTemplate.spec.containers[runtime].command is the operator's": { spec: { containers: [{ name: "runtime", command: ["sh"] }] } },
    'spec.podTemplate.spec.containers[runtime].env: "ENODIA_RANK"': {
      spec: { containers: [{ name: "runtime", env: [{ name: "ENODIA_RANK", value: "7" }] }] },
    },
    'spec.podTemplate.spec.containers[runtime].volumeMounts: "/models"': {
      spec: { containers: [{ name: "runtime", volumeMounts: [{ name: "x", mountPath: "/models" }] }] },
    },
    'spec.podTemplate.spec.volumes: "tls"': { spec: { volumes: [{ name: "tls", emptyDir: {} }] } },
    'spec.podTemplate.metadata.labels: "enodia.dev/rank"': { metadata: { labels: { "enodia.dev/rank": "3" } } },
    "spec.podTemplate.metadata.finalizers is the operator's": { metadata: { finalizers: ["x"] } },
    "spec.podTemplate.kind is not a field": { kind: "Pod" },
    "spec.podTemplate.spec.volumes must be a list": { spec: { volumes: { name: "x" } } },
    "spec.podTemplate.spec.containers[runtime].env must be a list": { spec: { containers: [{ name: "runtime", env: [null] }] } },
  };
  for (const [want, template] of Object.entries(bad)) {
    const found = workerTemplate(context({ podTemplate: template })).refusals.map((refusal) => refusal.message);
    assert.ok(
      found.some((message) => message.startsWith(want)),
      `${want}: ${found.join("; ") || "nothing refused"}`,
    );
  }
});

test("null lists in a template are empty, as they are to Kubernetes", () => {
  const nothing = workerTemplate(context({}));
  const spec = { volumes: null, securityContext: null, containers: [{ name: "runtime", env: null, volumeMounts: null, ports: null }] };
  const template = workerTemplate(context({ podTemplate: { spec } }));
  assert.deepEqual(template.refusals, []);
  assert.equal(template.hash, nothing.hash);
});

test("gateways leave a node that does not answer after 15 s, or as their template has it", () => {
  const away = (more: readonly object[]): [string | undefined, number | undefined][] =>
    gateway({ gateway: { podTemplate: { spec: { tolerations: more } } } }).spec.template.spec.tolerations.map(
      ({ key, tolerationSeconds }: { key?: string; tolerationSeconds?: number }) => [key, tolerationSeconds],
    );
  const [notReady, unreachable] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
  const pool = { key: "pool", operator: "Exists" };
  assert.deepEqual(away([pool]), [
    [notReady, 15],
    [unreachable, 15],
    ["pool", undefined],
  ]);
  const longer = { key: unreachable, operator: "Exists", effect: "NoExecute", tolerationSeconds: 600 };
  assert.deepEqual(away([longer]), [
    [notReady, 15],
    [unreachable, 600],
  ]);
  assert.deepEqual(away([{ operator: "Exists" }]), [[undefined, undefined]], "everything is tolerated");
  assert.deepEqual(away([{ key: unreachable, effect: "NoSchedule" }]).length, 3, "another effect is another taint");
});

test("gateways have requests, and a template of their own sets where and how they run", () => {
  assert.deepEqual(gateway({}).spec.template.spec.containers[0].resources, {
    requests: { cpu: "100m", memory: "512Mi" },
    limits: { memory: "2Gi" },
  });
  const podTemplate = {
    metadata: { labels: { team: "search" }, annotations: { note: "x" } },
    spec: {
      nodeSelector: { pool: "front" },
      tolerations: [{ key: "dedicated", operator: "Exists" }],
      priorityClassName: "high",
      containers: [
        {
          name: "gateway",
          image: "front:2",
          resources: { limits: { memory: "1Gi" } },
          env: [{ name: "ENODIA_QUEUE_REQUESTS_MAX", value: "7" }],
        },
        { name: "sidecar", image: "side:1" },
      ],
    },
  };
  const workers = { spec: { containers: [{ name: "runtime", env: [{ name: "ENODIA_QUEUE_REQUESTS_MAX", value: "64" }] }] } };
  const spec = { gateway: { podTemplate }, podTemplate: workers };
  assert.deepEqual(gatewayTemplate(context(spec)).refusals, []);
  const { metadata, spec: made } = gateway(spec).spec.template;
  assert.deepEqual(
    [metadata.labels.team, metadata.labels["enodia.dev/component"], metadata.annotations],
    ["search", "gateway", { note: "x", "enodia.dev/model-place": "models/models/moe" }],
  );
  assert.deepEqual(
    [made.nodeSelector, made.tolerations.at(-1), made.priorityClassName],
    [podTemplate.spec.nodeSelector, podTemplate.spec.tolerations[0], "high"],
  );
  const [front, sidecar] = made.containers;
  assert.deepEqual([front.image, front.resources, sidecar.name], ["front:2", { limits: { memory: "1Gi" } }, "sidecar"]);
  const queue = front.env.filter((one: { name: string }) => one.name === "ENODIA_QUEUE_REQUESTS_MAX");
  assert.deepEqual(
    queue.map((one: { value: string }) => one.value),
    ["7"],
    "its own template wins over what the workers' passes on",
  );
  assert.equal(workerTemplate(context(spec)).hash, workerTemplate(context({ podTemplate: workers })).hash, "workers are not rolled for it");

  const bad: Record<string, object> = {
    "spec.gateway.podTemplate.spec.hostNetwork must be false": { spec: { hostNetwork: true } },
    "spec.gateway.podTemplate.spec.containers[gateway].command is the operator's": {
      spec: { containers: [{ name: "gateway", command: ["sh"] }] },
    },
    'spec.gateway.podTemplate.spec.containers[gateway].env: "ENODIA_THREADS"': {
      spec: { containers: [{ name: "gateway", env: [{ name: "ENODIA_THREADS", value: "2" }] }] },
    },
  };
  for (const [want, template] of Object.entries(bad)) {
    const found = gatewayTemplate(context({ gateway: { podTemplate: template } })).refusals.map((refusal) => refusal.message);
    assert.ok(
      found.some((message) => message.startsWith(want)),
      `${want}: ${found.join("; ") || "nothing refused"}`,
    );
  }
});
