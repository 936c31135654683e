// Groups of training pods on a real API server, with the CRDs of both schedulers as their modules have them, installed while the operator
// runs, and the sample of such a job. Ends of pods are written here, as a kubelet would; no scheduler runs here.
import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { down } from "../../test/cluster/cluster.ts";
import { type ControlPlane, controlPlane, root } from "../../test/integration/control-plane.ts";
import { coschedulingCrd, documents, volcanoCrd } from "../../test/integration/pod-groups.ts";
import { tellPod } from "../../test/integration/pod-status.ts";
import { until } from "../../test/kit/processes/process.ts";
import { EventRecorder } from "../kube/events.ts";
import { Informers } from "../kube/informers.ts";
import { type Kube, type KubeObject, type Resource, resources } from "../kube/kube.ts";
import { createTrainingPlane } from "./plane.ts";

const name = "training-gangs-int";
const namespace = "training-gangs";
const job = "news-together";
const manager = { manager: "test" };
const patience = { timeoutMs: 90_000, everyMs: 100 };
let kube: Kube;
let apply: ControlPlane["apply"];
let stop = async (): Promise<void> => {};

before(
  async () => {
    ({ kube, apply } = await controlPlane(name, 0));
    await apply({ apiVersion: "v1", kind: "Namespace", metadata: { name: namespace } });
    const informers = new Informers([namespace], namespace, { kube });
    const events = new EventRecorder({ kube, reportingInstance: "test" });
    const settings = { trainingImage: "enodia/training:none", pullPolicy: "Never", logLevel: "info", namespace } as const;
    const plane = createTrainingPlane({ kube, informers, events, settings, ask: async () => undefined });
    informers.start();
    await until("the informers", () => informers.refresh().then(() => informers.trainingTrouble() === undefined || undefined), patience);
    plane.controller.start();
    stop = async () => {
      await plane.stop();
      await informers.stop();
      await events.flush();
    };
  },
  { timeout: 600_000 },
);
after(async () => {
  await stop();
  await down(name);
});

const podsOf = async (component: string): Promise<any[]> =>
  (await kube.list(resources.pods, { namespace, labelSelector: `enodia.dev/training-job=${job},enodia.dev/component=${component}` })).items;
const members = async (annotation: (pod: any) => unknown) => {
  const pods = await podsOf("trainer");
  return pods.length === 8 && pods.every((pod) => annotation(pod) === `${job}-train`) ? pods : undefined;
};
const condition = async (type: string) =>
  ((await kube.get(resources.moeTrainingJobs, { namespace, name: job }))?.status as any)?.conditions?.find((one: any) => one.type === type);
const group = async (resource: Resource): Promise<any> => kube.get(resource, { namespace, name: `${job}-train` });
const gone = (resource: Resource) => until("no group", async () => (await group(resource)) === undefined || undefined, patience);
const patch = (spec: object) => kube.patch(resources.moeTrainingJobs, { namespace, name: job }, { spec }, manager);

async function end(pod: KubeObject, said: object): Promise<void> {
  const terminated = { exitCode: 0, message: JSON.stringify(said) };
  const containerStatuses = [{ name: "runtime", image: "x", imageID: "x", ready: false, restartCount: 0, state: { terminated } }];
  await tellPod(kube, pod, { phase: "Succeeded", containerStatuses });
}

test("a job waits for Volcano's API, and its ranks start in one group once it is installed and they are known to fit", {
  timeout: 240_000,
}, async () => {
  const objects = documents(join(root, "crds/samples/gang-training.yaml"));
  await apply(...objects.map((one) => ({ ...one, metadata: { ...one.metadata, namespace } })));
  const refused = await until(
    "a refusal",
    async () => ((await condition("SpecAccepted"))?.status === "False" ? condition("SpecAccepted") : undefined),
    patience,
  );
  assert.equal(refused.reason, "GangUnavailable");
  assert.match(refused.message, /spec\.scheduling\.gang: Volcano: the cluster has no PodGroups of scheduling\.volcano\.sh\/v1beta1/);
  assert.deepEqual([await podsOf("trainer"), await podsOf("checker")], [[], []]);
  await apply(volcanoCrd);
  const [check] = await until(
    "the pod that checks it",
    async () => ((await podsOf("checker")).length > 0 ? podsOf("checker") : undefined),
    {
      ...patience,
      timeoutMs: 150_000,
    },
  );
  assert.equal(await group(resources.volcanoPodGroups), undefined, "no room is asked for before it is known to fit");
  assert.equal(check.spec.schedulerName, "default-scheduler", "it is none of the group");
  await end(check, { outcome: "Fits", message: "3 ranks fit", sizes: { leastRanks: 3, alone: false } });
  const pods = await until("8 members", () => members(({ metadata }) => metadata.annotations["scheduling.k8s.io/group-name"]), patience);
  assert.ok(pods.every(({ spec }) => spec.schedulerName === "volcano"));
  const made = await group(resources.volcanoPodGroups);
  assert.deepEqual(made.spec, { minMember: 4, queue: "training" }, "elasticity.minReplicas, which is more than fit");
  assert.deepEqual(
    made.metadata.ownerReferences.map(({ kind, name: owner }: any) => [kind, owner]),
    [["MoETrainingJob", job]],
  );
  await kube.delete(resources.volcanoPodGroups, { namespace, name: `${job}-train` });
  await until("the group again", () => group(resources.volcanoPodGroups), patience);
});

test("another scheduler has its own group and pods, and none is left of a job that is suspended", { timeout: 240_000 }, async () => {
  await apply(...(await coschedulingCrd()));
  await patch({ scheduling: { gang: "Coscheduling" }, elasticity: { minReplicas: 2 } });
  // No kubelet ends them.
  const pods = await until(
    "members of the other",
    async () => {
      const leaving = (await podsOf("trainer")).filter(({ metadata }) => metadata.deletionTimestamp !== undefined);
      for (const { metadata } of leaving) await kube.delete(resources.pods, { namespace, name: metadata.name }, { graceSeconds: 0 });
      return members(({ metadata }) => metadata.labels["scheduling.x-k8s.io/pod-group"]);
    },
    patience,
  );
  assert.ok(pods.every(({ spec }) => spec.schedulerName === "scheduler-plugins-scheduler"));
  await gone(resources.volcanoPodGroups);
  await until("what fits", async () => (await group(resources.coschedulingPodGroups))?.spec.minMember === 3 || undefined, patience);
  await patch({ suspend: true });
  await gone(resources.coschedulingPodGroups);
});

test("the server refuses a scheduler that there is none of", async () => {
  await assert.rejects(patch({ scheduling: { gang: "Kai" } }), /Unsupported value: "Kai"/);
});
