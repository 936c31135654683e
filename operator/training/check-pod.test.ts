// The pod that checks a job: it is small, reads and writes nothing, is admitted where the job's pods are, and is none of their group.
import assert from "node:assert/strict";
import { test } from "node:test";
import { parseMoETrainingJob } from "../../crds/moe-training-job.ts";
import { checkerProcess } from "../../crds/training-process.ts";
import { parseEnv } from "../../crds/variables.ts";
import { checkHash, checkPod } from "./check-pod.ts";
import { trainingPod } from "./pod.ts";

const settings = { trainingImage: "i", pullPolicy: "IfNotPresent", logLevel: "info" } as const;
const jobOf = (change: object = {}) =>
  parseMoETrainingJob({
    metadata: { name: "news", namespace: "ns", uid: "0123456789abcdef", generation: 3 },
    spec: {
      model: { uri: "pvc://m/a" },
      data: { uri: "pvc://d/a", validation: "pvc://v/a" },
      steps: 10,
      memoryPerRank: "64Gi",
      threadsPerRank: 16,
      replicas: 4,
      elasticity: { minReplicas: 2, maxReplicas: 4 },
      output: { uri: "pvc://o/a" },
      ...change,
    },
  });
const made = { image: "i", attempt: 1, ranks: 4 };
const podOf = (change: object = {}): any => checkPod(jobOf(change), settings, made);

test("it asks for little, whatever the ranks do, mounts every claim read-only, and has no certificate, token or port", () => {
  const { metadata, spec } = podOf();
  assert.equal(metadata.name, "news-check-01234567-1");
  assert.equal(metadata.labels["enodia.dev/component"], "checker");
  assert.equal(metadata.ownerReferences[0].uid, "0123456789abcdef");
  const [container] = spec.containers;
  assert.deepEqual(container.resources, { limits: { memory: "512Mi" }, requests: { cpu: "100m", memory: "512Mi" } });
  assert.deepEqual(
    container.volumeMounts.map(({ mountPath, readOnly }: any) => [mountPath, readOnly]),
    [["/tmp", undefined], ...["m", "d", "v", "o"].map((claim) => [`/claims/${claim}`, true])],
  );
  assert.deepEqual([spec.automountServiceAccountToken, spec.restartPolicy, spec.activeDeadlineSeconds], [false, "Never", 900]);
  assert.deepEqual([container.ports, spec.volumes.some(({ secret }: any) => secret !== undefined)], [undefined, false]);
});

test("its environment is read as it was rendered, for the ranks that are asked for and the least", () => {
  const env: readonly { name: string; value: string }[] = podOf().spec.containers[0].env;
  const settings = parseEnv(checkerProcess, Object.fromEntries(env.map(({ name, value }) => [name, value])));
  assert.deepEqual([settings.ranks, settings.minRanks, settings.spec.memoryPerRank, settings.job], [4, 2, "64Gi", "news"]);
});

test("it runs where ranks would, after what runs before them, without what runs beside them and outside of their group", () => {
  const runtime = { name: "runtime", resources: { limits: { cpu: "50m", "example.com/nic": 1 } }, env: [{ name: "A", value: "b" }] };
  const podTemplate = {
    metadata: {
      labels: { team: "a", "kueue.x-k8s.io/queue-name": "q", "kueue.x-k8s.io/pod-group-name": "g", "scheduling.x-k8s.io/pod-group": "g" },
      annotations: { "kueue.x-k8s.io/pod-group-total-count": "4", "scheduling.k8s.io/group-name": "g", note: "n" },
    },
    spec: {
      nodeSelector: { a: "b" },
      tolerations: [{ key: "k", operator: "Exists" }],
      initContainers: [{ name: "fetch", image: "f" }],
      containers: [runtime, { name: "beside", image: "x" }],
    },
  };
  const { metadata, spec } = podOf({ podTemplate });
  assert.deepEqual([spec.nodeSelector, spec.tolerations, spec.initContainers?.length], [{ a: "b" }, podTemplate.spec.tolerations, 1]);
  assert.deepEqual(
    spec.containers.map(({ name }: any) => name),
    ["runtime"],
  );
  assert.deepEqual(spec.containers[0].resources, { limits: { memory: "512Mi", cpu: "50m" }, requests: { cpu: "50m", memory: "512Mi" } });
  assert.ok(spec.containers[0].env.some(({ name }: any) => name === "A"));
  const keys = Object.keys({ ...metadata.labels, ...metadata.annotations });
  assert.deepEqual(
    keys.filter((key) => /group/.test(key)),
    [],
  );
  assert.ok(keys.includes("kueue.x-k8s.io/queue-name") && keys.includes("note") && keys.includes("team"));
  const rank: any = trainingPod(jobOf({ podTemplate }), settings, { image: "i", rank: 0, attempt: 0 });
  assert.equal(rank.metadata.labels["kueue.x-k8s.io/pod-group-name"], "g", "ranks are of the group");
  const limits = (cpu: unknown) => podOf({ podTemplate: { spec: { containers: [{ name: "runtime", resources: { limits: { cpu } } }] } } });
  assert.equal(limits("2").spec.containers[0].resources.requests.cpu, "100m");
  assert.equal(limits(0.05).spec.containers[0].resources.requests.cpu, 0.05);
});

test("it asks for the node's disk as ranks do, which a quota may want of each pod", () => {
  const resources = { limits: { "ephemeral-storage": "2Gi", memory: "9Gi" }, requests: { "ephemeral-storage": "1Gi" } };
  const { containers } = podOf({ podTemplate: { spec: { containers: [{ name: "runtime", resources }] } } }).spec;
  assert.deepEqual(containers[0].resources, {
    limits: { memory: "512Mi", "ephemeral-storage": "2Gi" },
    requests: { cpu: "100m", memory: "512Mi", "ephemeral-storage": "1Gi" },
  });
});

test("what it depends on has another hash, and how many ranks there are and where they run has not", () => {
  const hash = (change: object) => checkHash(jobOf(change), "i");
  const before = hash({});
  for (const change of [{ memoryPerRank: "1Gi" }, { fssdp: { memorySlots: 4 } }, { failurePolicy: { shadow: false } }])
    assert.notEqual(hash(change), before, JSON.stringify(change));
  for (const change of [
    { replicas: 3 },
    { suspend: true },
    { elasticity: { minReplicas: 1, maxReplicas: 8 } },
    { failurePolicy: { stepTimeout: "20s", maxRestarts: 1 } },
    { podTemplate: { spec: { nodeSelector: { a: "b" } } } },
  ])
    assert.equal(hash(change), before, JSON.stringify(change));
  assert.notEqual(checkHash(jobOf(), "other"), before);
});
