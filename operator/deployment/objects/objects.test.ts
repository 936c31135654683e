import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { parse } from "yaml";
import type { MoEDeployment } from "../../../crds/moe-deployment.ts";
import { parseGatewayConfig, parseWorkerConfig } from "../../../runtime/config.ts";
import { deployment, model, settings } from "../../../test/kit/deployment/deployment.ts";
import { restrictedFaults } from "../../../test/kit/kube/pod-security.ts";
import { resolvedEnv } from "../../../test/kit/ranks/worker-settings.ts";
import { resources } from "../../kube/kube.ts";
import type { Scope } from "../../kube/resources.ts";
import { operatorRules, rulesOf } from "../../rbac.ts";
import { memoryRefusals } from "../core/capacity.ts";
import { roleFile, roleTemplate } from "../generate-role.ts";
import type { RenderContext } from "./context.ts";
import { gatewayTemplate } from "./gateway.ts";
import { absentObjects, appliedObjects } from "./index.ts";
import { settingsMap } from "./plumbing.ts";
import { workerHash } from "./pod-hash.ts";
import { workerPod, workerTemplate } from "./worker-pod.ts";

const Mi = 2 ** 20;
const context = (spec: object = {}, more: Partial<RenderContext> = {}): RenderContext => ({
  deployment: deployment(spec),
  settings,
  ...more,
});
const worker = (spec: object = {}) => workerPod(context(spec), workerTemplate(context(spec)), 2, "abcde") as any;
const gateway = (spec: object = {}) => appliedObjects(context(spec)).find(({ object }) => object.kind === "Deployment")?.object as any;
/** The environment as the container sees it, with the downward fields filled in, under an operator with these settings. */
const env = (container: any, by = settings): Record<string, string> =>
  resolvedEnv(container.env, settingsMap(context({}, { settings: by })).data as Record<string, string>, (path) =>
    path === "metadata.labels['enodia.dev/rank']" ? "2" : "x",
  );

const traced = { ...settings, otlpEndpoint: "http://otel.test:4318", traceRatio: 0.5 };
const everything = {
  model: { uri: "pvc://models/a/b", servedName: "moe-8x" },
  runtime: {
    backend: "cpu",
    expertCodec: "f32",
    maxContext: 512,
    kvPool: "64Mi",
    deviceExpertMemory: "12Mi",
    deviceDenseMemory: "9Mi",
    kvOffload: { memory: "2Mi", disk: "4Mi" },
  },
  experts: { oversubscription: "Allow", prefetch: "NextGate", memoryPerRank: "1Gi", minGatePercent: 30 },
  telemetry: { nats: { credentialsSecretRef: { name: "creds" }, subjectPrefix: "moe" } },
  rebalancing: { trigger: { window: "6s" } },
  gateway: {
    apiKeySecretRef: { name: "key" },
    tls: { secretRef: { name: "cert" } },
    cors: { allowOrigins: ["https://a.test", "https://b.test"] },
    unknownFields: "Refuse",
    routing: "RoundRobin",
    prefixIsolation: true,
    clients: [{ name: "batch", tokensPerMinute: 5, priority: 3 }],
    jwt: { issuer: "https://issuer.test/a", audience: "moe" },
  },
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
/** The configuration that both kinds of pods get, with the downward fields as `env` fills them in. */
const shared = {
  namespace: "ns",
  deployment: "moe",
  deploymentUid: "uid-moe",
  podName: "x",
  podUid: "x",
  podIp: "x",
  tlsDir: "/etc/enodia/tls",
};

test("what is rendered for workers and gateways is what the runtime reads from its environment, setting by setting", () => {
  const full = context(everything, { settings: traced });
  const template = workerTemplate(full);
  assert.deepEqual(template.refusals, []);
  const rank = env((workerPod(full, template, 2, "abcde") as any).spec.containers[0], traced);
  const deployed = appliedObjects(full).find(({ object }) => object.kind === "Deployment")?.object as any;
  const front = env(deployed.spec.template.spec.containers[0], traced);
  const common = {
    ...{
      ...shared,
      servedName: "moe-8x",
      peersDns: "moe-workers.ns.svc",
      grpcPort: 9440,
      metricsPort: 9464,
      probePort: 9465,
    },
    ...{ maxContext: 512, logLevel: "info", otlpEndpoint: "http://otel.test:4318", traceRatio: 0.5 },
  };
  assert.deepEqual(parseWorkerConfig(rank), {
    ...common,
    ...{ enginePort: 9441, rank: 2, backend: "cpu", codec: "f32", kvPoolBytes: 64 * Mi, expertBudgetBytes: 2 ** 30, threads: 3 },
    ...{ natsUrl: "nats://nats.test:4222", natsPrefix: "moe", telemetryWindowMs: 2000 },
    ...{ kvType: undefined, maxBatchTokens: undefined, maxDecodeBatch: 64, decodeWaitMs: 20, devices: 1, draftTokens: 0, wholeCpus: 0 },
    prefillParallelism: 1,
    ...{ deviceExpertBytes: 12 * Mi, deviceDenseBytes: 9 * Mi },
    ...{ kvOffloadBytes: 2 * Mi, kvDiskBytes: 4 * Mi, kvDiskDir: "/var/cache/enodia/kv" },
    telemetryKeys: "/etc/enodia/telemetry/keys",
    natsCreds: "/etc/enodia/telemetry",
    modelDir: "/models/a/b",
    oversubscription: "Allow",
    minGatePercent: 30,
    prefetch: "NextGate",
    weightServerDns: undefined,
  });
  assert.deepEqual(parseGatewayConfig(front), {
    ...{ ...common, httpPort: 8000, apiKeyFile: "/etc/enodia/api-key/key", queueRequestsMax: 64 },
    textDir: "/tmp/text",
    ...{ httpTlsDir: "/etc/enodia/http-tls", corsOrigins: ["https://a.test", "https://b.test"] },
    unknownFields: "Refuse",
    routing: "RoundRobin",
    prefixIsolation: true,
    clients: [{ name: "batch", tokensPerMinute: 5, priority: 3 }],
    jwt: { issuer: "https://issuer.test/a", audience: "moe", claims: { client: "sub" } },
  });
  assert.ok(!("ENODIA_QUEUE_REQUESTS_MAX" in rank), "a setting of the gateway must not roll the workers");
});

test("what a spec leaves open, the runtime takes as unset or by its own default", () => {
  const bare = context({}, { settings: { ...settings, natsUrl: undefined } });
  const rank = parseWorkerConfig(env((workerPod(bare, workerTemplate(bare), 2, "abcde") as any).spec.containers[0], bare.settings));
  const common = {
    ...{
      ...shared,
      servedName: "moe",
      peersDns: "moe-workers.ns.svc",
      grpcPort: 9440,
      metricsPort: 9464,
      probePort: 9465,
    },
    ...{ maxContext: 4096, logLevel: "info", otlpEndpoint: undefined, traceRatio: undefined },
  };
  assert.deepEqual(rank, {
    ...common,
    ...{ enginePort: 9441, rank: 2, backend: "Auto", codec: "q4_0", kvPoolBytes: 0, expertBudgetBytes: 0, threads: undefined },
    ...{ natsUrl: undefined, natsCreds: undefined, natsPrefix: "enodia", telemetryWindowMs: 5000 },
    ...{ kvType: undefined, maxBatchTokens: undefined, maxDecodeBatch: 64, decodeWaitMs: 20, devices: 1, draftTokens: 0, wholeCpus: 0 },
    prefillParallelism: 1,
    ...{ deviceExpertBytes: undefined, deviceDenseBytes: undefined },
    ...{ kvOffloadBytes: 0, kvDiskBytes: 0, kvDiskDir: "/var/cache/enodia/kv" },
    telemetryKeys: "/etc/enodia/telemetry/keys",
    modelDir: "/models/moe",
    oversubscription: "Never",
    minGatePercent: 0,
    prefetch: "Off",
    weightServerDns: undefined,
  });
  const front = parseGatewayConfig(env(gateway().spec.template.spec.containers[0]));
  const unset = { apiKeyFile: undefined, jwt: undefined, queueRequestsMax: undefined, httpTlsDir: undefined, corsOrigins: undefined };
  const choices = { clients: undefined, unknownFields: undefined, routing: undefined, prefixIsolation: undefined };
  assert.deepEqual(front, { ...common, httpPort: 8000, textDir: "/tmp/text", ...unset, ...choices });
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

test("the disk of kvOffload is a volume of its size, which the scheduler counts unless the template limits it", () => {
  const podOf = (resources?: object, kvOffload: object = { memory: "1Gi", disk: "4Gi" }) =>
    worker({ runtime: { kvOffload }, podTemplate: { spec: { containers: [{ name: "runtime", resources }] } } }).spec;
  const asked = podOf({ requests: { cpu: "2" }, limits: { memory: "9Gi" } });
  assert.deepEqual(asked.volumes.at(-1), { name: "kv", emptyDir: { sizeLimit: "4Gi" } });
  assert.deepEqual(asked.containers[0].volumeMounts.at(-1), { name: "kv", mountPath: "/var/cache/enodia/kv" });
  assert.deepEqual(asked.containers[0].resources, { requests: { "ephemeral-storage": "4Gi", cpu: "2" }, limits: { memory: "9Gi" } });
  const limits = { "ephemeral-storage": "8Gi" };
  assert.deepEqual(podOf({ limits }).containers[0].resources, { limits });
  assert.doesNotMatch(JSON.stringify(podOf({}, { memory: "1Gi" })), /ephemeral-storage|enodia\/kv/);
});

test("a worker mounts no Secret that its spec names but through the operator's copy", () => {
  const nats = { url: "nats://elsewhere:4222", credentialsSecretRef: { name: "somebody-elses" } };
  const { volumes } = worker({ telemetry: { nats } }).spec;
  assert.doesNotMatch(JSON.stringify(volumes), /somebody-elses/);
  const toldOf = (own: object, telemetry: object = {}) => {
    const by = { ...settings, ...own };
    const at = context({ telemetry }, { settings: by });
    const { natsUrl, natsCreds } = parseWorkerConfig(env((workerPod(at, workerTemplate(at), 2, "abcde") as any).spec.containers[0], by));
    return [natsUrl, natsCreds];
  };
  const issued = { natsSecrets: "enodia-nats" };
  assert.deepEqual(toldOf(issued), [settings.natsUrl, "/etc/enodia/telemetry"], "a user of the chart's server");
  assert.deepEqual(toldOf(issued, { nats: { url: nats.url } }), [nats.url, undefined], "and for no other server");
  assert.deepEqual(toldOf({ natsCreds: "/etc/enodia/nats" }), [undefined, undefined], "nothing of the operator's own: Control is enough");
});

test("the hash speaks of the template, not of the rank or the name", () => {
  const template = workerTemplate(context());
  const one = workerPod(context(), template, 0, "aaaaa");
  const two = workerPod(context(), template, 1, "bbbbb");
  assert.equal(one.metadata.annotations?.["enodia.dev/template-hash"], two.metadata.annotations?.["enodia.dev/template-hash"]);
  assert.notEqual(workerTemplate(context({ runtime: { maxContext: 64 } })).hash, template.hash);
  assert.equal(workerTemplate(context({ replicas: 9 })).hash, template.hash);
  const hashOf = (experts: object) => workerTemplate(context({ experts })).hash;
  assert.equal(hashOf({ prefetch: "NextGate" }), template.hash, "nothing is loaded ahead where all experts fit");
  assert.notEqual(hashOf({ prefetch: "NextGate", oversubscription: "Allow" }), hashOf({ oversubscription: "Allow" }));
});

test("nothing that an operator is set to is in a pod, and none of it is in a hash", () => {
  const other = { ...traced, natsUrl: "tls://other:4222", natsCreds: "/elsewhere", logLevel: "debug" } as const;
  for (const template of [workerTemplate, gatewayTemplate]) {
    for (const spec of [{}, everything]) {
      const [was, is] = [settings, other].map((by) => template(context(spec, { settings: by })));
      assert.deepEqual(is, was);
      assert.equal(template(context(spec, { settings: { ...other, pullPolicy: "Always" } })).hash, was?.hash);
    }
  }
});

/** A change of these is a roll of every pod of every deployment with the next release, and wants a reason for that. */
const hashes = {
  least: ["648b52eb4c63d82c", "db0b3bfe2c6c69ab"],
  complete: ["1f44870b9d262b81", "e7db18ccf0a17290"],
};

test("hashes are those of the releases before", () => {
  const complete = parse(readFileSync(join(import.meta.dirname, "../../../crds/samples/complete.yaml"), "utf8")).spec;
  complete.model = { uri: "pvc://models/mixtral", servedName: "mixtral-8x7b" }; // as those releases had it
  // kvPool had a default then, which the objects have.
  delete complete.scheduling; // and they had none of these
  delete complete.runtime.deviceExpertMemory;
  delete complete.runtime.deviceDenseMemory;
  delete complete.runtime.prefillParallelism;
  delete complete.runtime.kvOffload;
  delete complete.experts.prefetch;
  delete complete.gateway.jwt;
  for (const later of ["unknownFields", "routing", "prefixIsolation"]) delete complete.gateway[later];
  const hashesOf = (spec: object) => [workerTemplate(context(spec)).hash, gatewayTemplate(context(spec)).hash];
  assert.deepEqual({ least: hashesOf({ runtime: { kvPool: "256Mi" } }), complete: hashesOf(complete) }, hashes);
});

test("a field at its default counts as one that is not there, in whatever order a template's fields are", () => {
  const { spec } = deployment();
  const bare = { ...deployment(), spec: { ...spec, runtime: {}, telemetry: { nats: {} }, experts: {} } } as unknown as MoEDeployment;
  assert.equal(workerHash(bare, "i"), workerHash(deployment(), "i"), "as it was before the fields were added");
  const template = (labels: object) => deployment({ podTemplate: { metadata: { labels } } });
  assert.equal(workerHash(template({ a: "1", b: "2" }), "i"), workerHash(template({ b: "2", a: "1" }), "i"));
  const image = { spec: { containers: [{ name: "runtime", image: "i" }] } };
  assert.equal(
    workerHash(deployment({ podTemplate: image }), "other"),
    workerHash(deployment(), "i"),
    "the image counts, not who names it",
  );
});

const spec = (memoryPerRank: string, replicas = 2) => deployment({ experts: { memoryPerRank }, replicas }).spec;

test("experts that do not fit are refused with what would make them fit, and following the advice is enough", () => {
  const message = memoryRefusals(spec("6Mi"), model, 2, undefined)[0]?.message ?? "";
  assert.equal(
    message,
    "experts need 16Mi, 2 ranks x 6Mi = 12Mi (one slot of 1Mi per rank stages moves): raise memoryPerRank to 9Mi or replicas to 4, or set experts.oversubscription to Allow",
  );
  assert.deepEqual(memoryRefusals(spec("9Mi"), model, 2, undefined), []);
  assert.deepEqual(memoryRefusals(spec("6Mi"), model, 4, undefined), []);
  assert.deepEqual(memoryRefusals(spec("6Mi"), undefined, 2, undefined), [], "sizes are not known before a worker told them");
  assert.deepEqual(memoryRefusals(spec("6Mi"), model, 0, undefined), []);
  const [limit] = memoryRefusals(spec("9Mi"), model, 2, 256 * Mi);
  assert.equal(limit?.reason, "InsufficientMemoryLimit");
  assert.match(limit?.message ?? "", /above the memory limit 256Mi .*raise the limit or lower memoryPerRank/);
});

test("experts of unlike sizes are counted in bytes, layers without experts not at all", () => {
  // One layer of 2 experts of 4 Mi, two of 8 of half a Mi, one without: 16 Mi in all.
  const unlike = { ...model, layers: 4, experts: 8, layerExperts: [0, 2, 8, 8], expertBytes: 16 * Mi, largestExpertBytes: 4 * Mi };
  assert.deepEqual(memoryRefusals(spec("16Mi"), unlike, 2, undefined), [], "16 Mi fit beside what at most stays unused");
  const [refusal] = memoryRefusals(spec("10Mi"), unlike, 2, undefined);
  assert.match(refusal?.message ?? "", /raise memoryPerRank to 16Mi or replicas to 8, or set experts\.oversubscription to Allow$/);
  assert.deepEqual(memoryRefusals(spec("10Mi"), unlike, 8, undefined), []);
  const few = { ...unlike, layerExperts: [0, 2, 0, 0], expertBytes: 8 * Mi };
  assert.deepEqual(memoryRefusals(spec("8Mi"), few, 2, undefined), [], "two experts, one a rank, each beside a staging slot");
});

test("the number of gateways is rendered where the spec gives one, and taken from anybody while suspended", () => {
  const gateways = (gateway: object, suspend = false) => {
    const rendered = appliedObjects(context({ gateway, suspend })).find(({ object }) => object.kind === "Deployment");
    return { replicas: (rendered?.object as any)?.spec.replicas, leaves: rendered?.leaves?.join("."), takes: rendered?.takes };
  };
  assert.deepEqual(gateways({}), { replicas: undefined, leaves: "spec.replicas", takes: undefined });
  assert.deepEqual(gateways({ autoscale: { maxReplicas: 4 } }), { replicas: undefined, leaves: "spec.replicas", takes: undefined });
  assert.deepEqual(gateways({ replicas: 2 }), { replicas: 2, leaves: undefined, takes: undefined });
  assert.deepEqual(gateways({}, true), { replicas: 0, leaves: undefined, takes: [".spec.replicas"] });
});

test("the autoscaler counts the gateway's own container, and is to go where the spec has none", () => {
  const at = context({ gateway: { autoscale: { minReplicas: 2, maxReplicas: 5, targetCPUUtilizationPercentage: 60 } } });
  const autoscaler = appliedObjects(at).find(({ object }) => object.kind === "HorizontalPodAutoscaler")?.object as any;
  assert.equal(autoscaler.metadata.ownerReferences[0].uid, "uid-moe");
  assert.deepEqual(autoscaler.spec, {
    scaleTargetRef: { apiVersion: "apps/v1", kind: "Deployment", name: "moe-gateway" },
    minReplicas: 2,
    maxReplicas: 5,
    metrics: [
      {
        type: "ContainerResource",
        containerResource: { name: "cpu", container: "gateway", target: { type: "Utilization", averageUtilization: 60 } },
      },
    ],
  });
  const absent = (of: typeof at) => absentObjects(of).some(({ resource }) => resource === resources.horizontalPodAutoscalers);
  assert.deepEqual([absent(at), absent(context())], [false, true]);
});

test("the chart's roles are the operator's rules, and the rules cover every resource it touches, each no wider than it has to be", () => {
  assert.equal(readFileSync(roleFile, "utf8"), roleTemplate());
  const touched = Object.values(resources).filter(
    (resource) => !["Namespace", "CustomResourceDefinition", "RoleBinding"].includes(resource.kind),
  );
  for (const resource of touched) {
    const group = resource.apiVersion.includes("/") ? (resource.apiVersion.split("/")[0] ?? "") : "";
    assert.ok(
      operatorRules.some((rule) => rule.apiGroups.includes(group) && rule.resources.includes(resource.plural)),
      `${group}/${resource.plural} is not granted`,
    );
  }
  const granted = (scope: Scope) => rulesOf(scope).flatMap((rule) => rule.resources);
  assert.deepEqual(granted("cluster"), ["nodes", "clusterroles"]);
  assert.deepEqual(granted("release"), ["leases", "secrets"]);
});

test("a worker has the time of elasticity.drain to go, knows it, and is not restarted when that changes", () => {
  const grace = (spec: object) => {
    const made = worker(spec);
    return [made.spec.terminationGracePeriodSeconds, Number(env(made.spec.containers[0]).ENODIA_GRACE_SECONDS)];
  };
  assert.deepEqual(grace({}), [75, 75]);
  assert.deepEqual(grace({ elasticity: { drain: "5m" } }), [315, 315]);
  assert.deepEqual(
    grace({ podTemplate: { spec: { terminationGracePeriodSeconds: 30, containers: [] } } }),
    [30, 30],
    "a template has its own",
  );
  const none = grace({ podTemplate: { spec: { terminationGracePeriodSeconds: 0, containers: [] } } });
  assert.deepEqual(none, [0, 1], "a worker can be told of none");
  const hash = (drain: string) => workerTemplate(context({ elasticity: { drain } })).hash;
  assert.equal(hash("5m"), hash("60s"));
});

test("one of the ranks that are wanted may be away, whatever replicas says that is not acted on", () => {
  const allowed = (spec: object, status: object = {}) => {
    const at: RenderContext = { deployment: deployment(spec, status), settings };
    const found = appliedObjects(at).find(({ object }) => object.metadata.name === "moe-workers" && object.kind === "PodDisruptionBudget");
    return (found as any).object.spec.minAvailable;
  };
  assert.equal(allowed({ replicas: 3 }), 2);
  assert.equal(allowed({ replicas: 1 }, { expertParallel: { desiredRanks: 3 } }), 2, "a shrink that is refused or waits");
  assert.equal(allowed({ replicas: 1 }), 0);
  assert.equal(allowed({ replicas: 3, suspend: true }), 0);
});
