// No field of a training job's spec is silently ignored: what follows of each, in the pod, its hash, the decision, or a refusal.
import assert from "node:assert/strict";
import { test } from "node:test";
import { type MoETrainingJob, moeTrainingJobSpecSchema, parseMoETrainingJob } from "../../crds/moe-training-job.ts";
import { type JsonObject, structuralSchema } from "../../crds/openapi.ts";
import { checkHash } from "./check-pod.ts";
import { anywhere } from "./core/claim-place.ts";
import { decide } from "./core/decide.ts";
import { podView } from "./core/pod-view.ts";
import { templateHash, templateProblems, trainingPod } from "./pod.ts";

const settings = { trainingImage: "i", pullPolicy: "IfNotPresent", logLevel: "info" } as const;
const base = {
  model: { uri: "pvc://m/a" },
  data: { uri: "pvc://d/a" },
  steps: 10,
  memoryPerRank: "1Gi",
  output: { uri: "pvc://o/a" },
};

/** Leaves of the spec, each with another value than its default. */
const changes: Record<string, unknown> = {
  suspend: true,
  replicas: 2,
  "elasticity.maxReplicas": 9,
  "model.uri": "pvc://m/b",
  "model.init": "Random",
  "model.initCodec": "f32",
  "data.uri": "pvc://d/b",
  "data.validation": "pvc://v/b",
  "data.sequenceLength": 8,
  "local.recipe": "fedavg:5",
  "local.data": ["pvc://e/a"],
  steps: 20,
  "batch.sequences": 32,
  "batch.microBatches": 4,
  "fssdp.planner": "ep",
  "fssdp.dispatch": "LocalFirst",
  "fssdp.rematerialize": "AfterForward",
  "fssdp.memorySlots": 2,
  "fssdp.overlapDegree": 1,
  "fssdp.microBatchesAtOnce": 8,
  "fssdp.window": 3,
  "fssdp.reshardSteps": 50,
  seed: 2,
  "optimizer.learningRate": "1e-3",
  "optimizer.memory": "1Gi",
  "optimizer.weightDecay": "0",
  "optimizer.beta1": "0.5",
  "optimizer.beta2": "0.5",
  "optimizer.epsilon": "1e-7",
  "optimizer.clip": "2",
  "schedule.name": "constant",
  "schedule.warmupSteps": 3,
  "schedule.floor": "0.2",
  balance: "switch:0.01",
  adapters: "mixlora:8:2:4",
  gate: "dense-to-sparse:4:0.05:5",
  "spawn.step": 5,
  "spawn.mask": "0.25",
  "spawn.replicasBefore": 2,
  memoryPerRank: "2Gi",
  threadsPerRank: 2,
  "checkpoint.everySteps": 5,
  "checkpoint.keep": 1,
  "failurePolicy.maxRestarts": 0,
  "failurePolicy.shadow": false,
  "failurePolicy.stepTimeout": "20s",
  "output.uri": "pvc://o/b",
  "output.codecs": ["q4_0"],
  image: "other",
  "scheduling.gang": "Coscheduling",
  "podTemplate.metadata.labels": { a: "b" },
  "podTemplate.metadata.annotations": { a: "b" },
  "podTemplate.spec.containers": [{ name: "runtime", env: [{ name: "A", value: "b" }] }],
};
/** Fields that only bound others, which the API server checks; and those of a template that are not to be set. */
const elsewhere = ["elasticity.minReplicas", "optimizer.name", "podTemplate.metadata.name", "podTemplate.metadata.namespace"];

function jobWith(path?: string, value?: unknown): MoETrainingJob {
  const spec: any = structuredClone(base);
  const parts = path?.split(".") ?? [];
  if (parts[0] === "spawn") spec.spawn = { step: 4 }; // which none of the others is without
  parts.reduce((at, part, i) => {
    at[part] = i === parts.length - 1 ? value : (at[part] ?? {});
    return at[part];
  }, spec);
  return parseMoETrainingJob({ metadata: { name: "j", namespace: "ns", uid: "u", generation: 1 }, spec });
}

/** What follows of a spec: with no pod, and after a pod that failed. */
function outcome(job: MoETrainingJob): unknown {
  const image = job.spec.image ?? settings.trainingImage;
  const pod = trainingPod(job, settings, { image, rank: 0, attempt: 0 });
  const failed = podView({ metadata: { ...pod.metadata, uid: "p" }, status: { phase: "Failed" } });
  const checked = { generation: 1, hash: checkHash(job, image), attempt: 0, fits: { message: "it fits" } };
  const given = {
    job,
    status: { check: checked },
    checks: [],
    reports: new Map(),
    image: settings.trainingImage,
    templateProblems: templateProblems(job, settings),
  };
  const rest = {
    rival: undefined,
    otherWriters: [],
    templateHash: (of: string) => templateHash(job, of),
    checkHash: (of: string) => checkHash(job, of),
    groupProblems: [],
    podRefused: undefined,
    place: anywhere,
    now: new Date(0),
  };
  return { pod, fresh: decide({ ...given, ...rest, pods: [] }), after: decide({ ...given, ...rest, pods: [failed] }) };
}

function leaves(schema: JsonObject, path = ""): string[] {
  const properties = schema.properties as Record<string, JsonObject> | undefined;
  if (properties === undefined) return [path];
  return Object.entries(properties).flatMap(([name, child]) => leaves(child, path === "" ? name : `${path}.${name}`));
}

test("every field of the spec is in one of the lists", () => {
  const known = [...Object.keys(changes), ...elsewhere];
  assert.deepEqual(leaves(structuralSchema(moeTrainingJobSpecSchema, "spec")).toSorted(), known.toSorted());
});

for (const [path, value] of Object.entries(changes)) {
  test(`something follows of ${path}`, () => {
    const before = path.startsWith("spawn.") ? jobWith("spawn.step", 4) : jobWith();
    assert.notDeepEqual(outcome(jobWith(path, value)), outcome(before));
  });
}

test("what may change while a job lives replaces its pod, and what only decides when there is one does not", () => {
  const hash = (path?: string) => templateHash(jobWith(path, path === undefined ? undefined : changes[path]), "i");
  for (const path of ["memoryPerRank", "checkpoint.keep", "fssdp.planner", "failurePolicy.shadow", "failurePolicy.stepTimeout"])
    assert.notEqual(hash(path), hash(), path);
  for (const path of ["suspend", "failurePolicy.maxRestarts", "replicas", "elasticity.maxReplicas"]) assert.equal(hash(path), hash(), path);
});

test("a template that has what is the operator's is refused by name", () => {
  const problems = (spec: object): string =>
    templateProblems(jobWith("podTemplate", { spec }), settings)
      .map(({ message }) => message)
      .join("\n");
  assert.match(problems({ restartPolicy: "Always" }), /spec\.podTemplate\.spec\.restartPolicy must be Never/);
  assert.match(problems({ containers: [{ name: "runtime", command: ["sh"] }] }), /command is the operator's/);
  assert.match(
    problems({ containers: [{ name: "runtime", env: [{ name: "ENODIA_TRAINING_SPEC", value: "{}" }] }] }),
    /ENODIA_TRAINING_SPEC/,
  );
  assert.match(problems({ containers: [{ name: "runtime", image: "mine" }] }), /containers\[runtime\]\.image .*: set spec\.image/);
  assert.match(
    problems({ containers: [{ name: "runtime", terminationMessagePath: "/tmp/x" }] }),
    /\.terminationMessagePath is the operator's/,
  );
  assert.equal(problems({ containers: [{ name: "runtime" }, { name: "beside" }] }), "");
});
