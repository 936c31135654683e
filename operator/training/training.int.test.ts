// Training jobs on a real API server: what it refuses and says, its columns and /scale, and a life of a job whose pods are admitted by the
// restricted level and whose ends are written here, as a kubelet would.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { parse } from "yaml";
import { AppError } from "../../crds/common.ts";
import { down } from "../../test/cluster/cluster.ts";
import { controlPlane, root } from "../../test/integration/control-plane.ts";
import { tellPod } from "../../test/integration/pod-status.ts";
import { until as poll } from "../../test/kit/processes/process.ts";
import { EventRecorder } from "../kube/events.ts";
import { Informers } from "../kube/informers.ts";
import { type Kube, type KubeObject, resources } from "../kube/kube.ts";
import { createTrainingPlane } from "./plane.ts";

const name = "training-int";
const namespace = "training";
const manager = { manager: "test" };
let kube: Kube;
let kubectl: (...args: readonly string[]) => Promise<string>;

before(
  async () => {
    const plane = await controlPlane(name, 0);
    ({ kube, kubectl } = plane);
    const labels = { "pod-security.kubernetes.io/enforce": "restricted" };
    await plane.apply({ apiVersion: "v1", kind: "Namespace", metadata: { name: namespace, labels } });
  },
  { timeout: 600_000 },
);
after(() => down(name));

const sample = (of: string, change: (spec: any) => void = () => {}): KubeObject => {
  const object = parse(readFileSync(join(root, "crds/samples/training.yaml"), "utf8"));
  object.spec.output.uri = `pvc://models/${of}`;
  change(object.spec);
  return { ...object, metadata: { name: of, namespace } };
};

const spawned = (spec: any, spawn: object) => Object.assign(spec, { model: { ...spec.model, init: "Random" }, spawn });
/** Two worlds that meet, with a pod each. */
const met = (spec: any) =>
  Object.assign(spec, {
    replicas: 2,
    elasticity: { minReplicas: 2, maxReplicas: 2 },
    local: { recipe: "fedavg:100", data: ["pvc://models/other"] },
  });

const refused: Record<string, { readonly change: (spec: any) => void; readonly want: RegExp }> = {
  "a rate that is no number": { change: (spec) => Object.assign(spec.optimizer, { learningRate: "fast" }), want: /learningRate/ },
  "no steps": { change: (spec) => Object.assign(spec, { steps: 0 }), want: /steps/ },
  "an unknown field": { change: (spec) => Object.assign(spec, { fsdp: {} }), want: /unknown field "spec\.fsdp"/ },
  "an unknown planner": { change: (spec) => Object.assign(spec, { fssdp: { planner: "best" } }), want: /planner.*supported values/ },
  "adapters that are no such text": { change: (spec) => Object.assign(spec, { adapters: "MixLoRA 8" }), want: /adapters/ },
  "a gate that is no such text": { change: (spec) => Object.assign(spec, { gate: "Dense_to_sparse" }), want: /gate/ },
  "micro-batches at once that are no number": {
    change: (spec) => Object.assign(spec, { fssdp: { microBatchesAtOnce: "all" } }),
    want: /microBatchesAtOnce/,
  },
  "a mask that is no number": { change: (spec) => spawned(spec, { step: 5, mask: "half" }), want: /mask/ },
  "a meeting of one world": {
    change: (spec) => Object.assign(met(spec).local, { data: [] }),
    want: /local\.recipe and local\.data go together/,
  },
  "slots that are no number": { change: (spec) => Object.assign(spec, { fssdp: { memorySlots: "many" } }), want: /memorySlots/ },
};
for (const [sentence, { change, want }] of Object.entries(refused)) {
  test(`the server refuses ${sentence} and says what to do`, async () => {
    await assert.rejects(kube.create(resources.moeTrainingJobs, sample("refused", change), manager), (error: unknown) => {
      assert.ok(error instanceof AppError);
      assert.match(error.message, want);
      return true;
    });
  });
}

test("what the result depends on cannot change, what it does not can, and scale keeps to the bounds", async () => {
  const ref = { namespace, name: "fixed" };
  await kube.create(
    resources.moeTrainingJobs,
    sample("fixed", (spec) => Object.assign(spec, { suspend: true })),
    manager,
  );
  const patch = (spec: object) => kube.patch(resources.moeTrainingJobs, ref, { spec }, manager);
  for (const fixed of [
    { steps: 3000 },
    { seed: 2 },
    { batch: { microBatches: 4 } },
    { threadsPerRank: 1 },
    { output: { codecs: ["f32"] } },
  ])
    await assert.rejects(patch(fixed), /cannot change, since the result depends on it: make another job/);
  await patch({ memoryPerRank: "13Gi", checkpoint: { keep: 5 } });
  await assert.rejects(kubectl("scale", "moet/fixed", "-n", namespace, "--replicas=2"), /replicas must be from/);
  await kubectl("scale", "moet/fixed", "-n", namespace, "--replicas=1");
  await patch({ elasticity: { maxReplicas: 3 }, fssdp: { planner: "ep", memorySlots: 2, overlapDegree: "Auto" } });
  await kubectl("scale", "moet/fixed", "-n", namespace, "--replicas=3");
});

test("a spawn's step and mask, worlds that meet, adapters and a gate cannot change either, and how pods follow them can", async () => {
  const make = (of: string, change: (spec: any) => void) =>
    kube.create(
      resources.moeTrainingJobs,
      sample(of, (spec) => {
        change(spec);
        spec.suspend = true;
      }),
      manager,
    );
  const patch = (name: string, spec: object) => kube.patch(resources.moeTrainingJobs, { namespace, name }, { spec }, manager);
  await make("plain", () => {});
  await make("born", (spec) => spawned(spec, { step: 5 }));
  await make("meets", (spec) => void met(spec));
  const fixed: readonly (readonly [name: string, spec: object])[] = [
    ["plain", { model: { init: "Random" }, spawn: { step: 5 } }],
    ["plain", { adapters: "mixlora:8:2:4" }],
    ["plain", { gate: "dense-to-sparse:4:0.05:5" }],
    ["born", { spawn: null }],
    ["born", { spawn: { step: 6 } }],
    ["born", { spawn: { mask: "0.25" } }],
    ["meets", { local: { recipe: "fedavg:50" } }],
    ["meets", { local: { data: ["pvc://models/another"] } }],
  ];
  for (const [name, spec] of fixed)
    await assert.rejects(patch(name, spec), /cannot change, since the result depends on (it|them): make another job/, JSON.stringify(spec));
  await patch("born", { spawn: { replicasBefore: 2 }, elasticity: { maxReplicas: 3 }, failurePolicy: { stepTimeout: "20s" } });
  await patch("plain", { fssdp: { microBatchesAtOnce: 8 }, failurePolicy: { stepTimeout: "Auto", shadow: false } });
  await patch("meets", { replicas: 3, elasticity: { maxReplicas: 4 } });
});

test("a job's pod is admitted, its end becomes the job's, and the columns tell", { timeout: 180_000 }, async () => {
  const informers = new Informers([namespace], namespace, { kube });
  const events = new EventRecorder({ kube, reportingInstance: "int" });
  const settings = { trainingImage: "enodia/training:none", pullPolicy: "Never", logLevel: "info", namespace } as const;
  const plane = createTrainingPlane({ kube, informers, events, settings, ask: async () => undefined });
  informers.start();
  await informers.refresh();
  plane.controller.start();
  const end = async (pod: KubeObject, said: object): Promise<void> => {
    const terminated = { exitCode: 0, message: JSON.stringify(said) };
    const containerStatuses = [{ name: "runtime", image: "x", imageID: "x", ready: false, restartCount: 0, state: { terminated } }];
    await tellPod(kube, pod, { phase: "Succeeded", containerStatuses });
  };
  const until = <T>(what: string, probe: () => Promise<T | undefined>) => poll(what, probe, { timeoutMs: 60_000 });
  try {
    const made = await kube.create(resources.moeTrainingJobs, sample("news"), manager);
    const check = { namespace, name: `news-check-${made.metadata.uid?.slice(0, 8)}-0` };
    const checks = await until("the pod that checks it", () => kube.get(resources.pods, check));
    await kubectl("wait", "moet/news", "-n", namespace, '--for=jsonpath={.status.conditions[?(@.type=="Running")].reason}=Checking');
    assert.equal(await kube.get(resources.pods, { namespace, name: "news-train-0-0" }), undefined, "none trains before it fits");
    await end(checks, { outcome: "Fits", message: "1 rank needs 0.5 GB", sizes: { leastRanks: 1, alone: true } });
    await until("it to be gone", async () => (await kube.get(resources.pods, check)) === undefined || undefined);
    const pod = await until("its pod", () => kube.get(resources.pods, { namespace, name: "news-train-0-0" }));
    const leaf = await until("its certificate", () => kube.get(resources.secrets, { namespace, name: "news-train-0-0-tls" }));
    assert.deepEqual(
      leaf.metadata.ownerReferences?.map(({ uid }) => uid),
      [pod.metadata.uid],
    );
    const report = { step: 2000, loss: 1.5, curve: [{ step: 2000, loss: 1.5 }] };
    await end(pod, { outcome: "Complete", report });
    await until(
      "the pod to be gone",
      async () => (await kube.get(resources.pods, { namespace, name: "news-train-0-0" })) === undefined || undefined,
    );
    const columns = (await kubectl("get", "moet", "news", "-n", namespace)).split("\n");
    assert.match(columns[0] ?? "", /^NAME +STEP +PROGRESS +LOSS +TOKENS\/S +RANKS +ETA +STATUS +AGE/);
    assert.match(columns[1] ?? "", /^news +2000 +100% +1\.5000 .*Complete/);
    await kubectl("wait", "moet/news", "-n", namespace, "--for=condition=Complete", "--timeout=10s");
    const { check: kept } = ((await kube.get(resources.moeTrainingJobs, { namespace, name: "news" })) as any).status;
    assert.deepEqual(kept.fits, { message: "1 rank needs 0.5 GB", sizes: { leastRanks: 1, alone: true } });

    const large = await kube.create(resources.moeTrainingJobs, sample("large"), manager);
    const refuses = { namespace, name: `large-check-${large.metadata.uid?.slice(0, 8)}-0` };
    const message = "rank 0 of 1: 16 GB; give more spec.memoryPerRank";
    await end(await until("its check", () => kube.get(resources.pods, refuses)), {
      outcome: "Failed",
      code: "DoesNotFit",
      message,
      retry: false,
    });
    await kubectl("wait", "moet/large", "-n", namespace, "--for=condition=SpecAccepted=False", "--timeout=10s");
    await until("it to be gone", async () => (await kube.get(resources.pods, refuses)) === undefined || undefined);
    assert.match(await kubectl("describe", "moet", "large", "-n", namespace), /DoesNotFit[\s\S]*give more spec\.memoryPerRank/);
    const trains = await kubectl(
      "get",
      "pods",
      "-n",
      namespace,
      "-l",
      "enodia.dev/training-job=large,enodia.dev/component=trainer",
      "-o",
      "name",
    );
    assert.equal(trains, "");
  } finally {
    await plane.stop();
    await informers.stop();
    await events.flush();
  }
});
