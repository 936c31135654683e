// Groups of pods on a real API server: the CRD of the coscheduling plugin as its module has it, and that of Volcano with the fields that
// its module's types have, installed while the operator runs. And the samples of schedulers, priorities and device claims: the server takes
// them, and the pods carry what they say. No scheduler runs here.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { down } from "../../test/cluster/cluster.ts";
import { type ControlPlane, controlPlane, root } from "../../test/integration/control-plane.ts";
import { startDeploymentPlane } from "../../test/integration/deployment-plane.ts";
import { coschedulingCrd, documents, modules, volcanoCrd } from "../../test/integration/pod-groups.ts";
import { moduleFolder } from "../../test/kit/processes/go-module.ts";
import { until } from "../../test/kit/processes/process.ts";
import { type Kube, type KubeObject, type Resource, resources } from "../kube/kube.ts";
import { gangOf } from "./index.ts";

const name = "gangs-int";
const namespace = "gangs";
const manager = { manager: "test" };
const patience = { timeoutMs: 60_000, everyMs: 100 };
let kube: Kube;
let apply: ControlPlane["apply"];
let stop = async (): Promise<void> => {};

before(
  async () => {
    ({ kube, apply } = await controlPlane(name, 0));
    for (const one of [namespace, "gangs-system"]) await apply({ apiVersion: "v1", kind: "Namespace", metadata: { name: one } });
    stop = await startDeploymentPlane(kube, namespace, { system: "gangs-system" });
  },
  { timeout: 600_000 },
);
after(async () => {
  await stop();
  await down(name);
});

const workers = async (of: string): Promise<any[]> =>
  (await kube.list(resources.pods, { namespace, labelSelector: `enodia.dev/deployment=${of},enodia.dev/component=worker` })).items;
const waiting = (of: string, count: number) =>
  until(`${count} pods of ${of}`, async () => ((await workers(of)).length === count ? workers(of) : undefined), patience);
const condition = async (of: string) =>
  ((await kube.get(resources.moeDeployments, { namespace, name: of }))?.status as any)?.conditions?.find(
    (one: any) => one.type === "SpecAccepted",
  );
const group = async (resource: Resource, of: string): Promise<any> => kube.get(resource, { namespace, name: `${of}-workers` });
const patch = (of: string, spec: object) => kube.patch(resources.moeDeployments, { namespace, name: of }, { spec }, manager);

/** Applies a sample of several objects, those with a namespace into the test's. */
async function sample(file: string): Promise<KubeObject[]> {
  const objects = documents(join(root, "crds/samples", file));
  const placed = objects.map((one) => (one.kind === "PriorityClass" ? one : { ...one, metadata: { ...one.metadata, namespace } }));
  await apply(...placed);
  return placed;
}

test("the names are those that the schedulers' own modules have", { timeout: 120_000 }, async () => {
  const read = async (of: (typeof modules)[keyof typeof modules], file: string) => readFileSync(join(await moduleFolder(of), file), "utf8");
  const types = await read(modules.volcano, "pkg/apis/scheduling/v1beta1/types.go");
  const spec = /type PodGroupSpec struct \{(.*?)\n\}/s.exec(types)?.[1] ?? "";
  for (const field of Object.keys(volcanoCrd.spec.versions[0]?.schema.openAPIV3Schema.properties.spec.properties ?? {}))
    assert.match(spec, new RegExp(`json:"${field},omitempty"`));
  const keys = await read(modules.volcano, "pkg/apis/scheduling/v1beta1/labels.go");
  assert.match(keys, /KubeGroupNameAnnotationKey = "scheduling\.k8s\.io\/group-name"/);
  assert.match(keys, /QueueNameAnnotationKey = GroupName \+ "\/queue-name"/);
  const plugin = await read(modules.coscheduling, "apis/scheduling/v1alpha1/types.go");
  assert.match(plugin, /PodGroupLabel = scheduling\.GroupName \+ "\/pod-group"/);
  const values = await read(modules.coscheduling, "manifests/install/charts/as-a-second-scheduler/values.yaml");
  assert.match(values, /name: scheduler-plugins-scheduler/);
});

test("ranks wait for Volcano's API, and start in its group once it is installed; without a gang the group goes", {
  timeout: 180_000,
}, async () => {
  await sample("gang.yaml");
  const refused = await until(
    "a refusal",
    async () => ((await condition("together"))?.status === "False" ? condition("together") : undefined),
    patience,
  );
  assert.equal(refused.reason, "GangUnavailable");
  assert.match(refused.message, /spec\.scheduling\.gang: Volcano: the cluster has no PodGroups of scheduling\.volcano\.sh\/v1beta1/);
  assert.equal((await workers("together")).length, 0);
  await apply(volcanoCrd);
  const pods = await waiting("together", 8);
  const made = await group(resources.volcanoPodGroups, "together");
  assert.deepEqual(made.spec, { minMember: 8, queue: "inference", priorityClassName: "inference" });
  assert.equal(made.metadata.ownerReferences[0].kind, "MoEDeployment");
  for (const { metadata, spec } of pods) {
    assert.equal(metadata.annotations["scheduling.k8s.io/group-name"], "together-workers");
    assert.deepEqual([spec.schedulerName, spec.priorityClassName, spec.priority], ["volcano", "inference", 100000]);
    const [term] = spec.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution;
    assert.deepEqual([term.weight, term.podAffinityTerm.topologyKey], [100, "example.com/rack"]);
    assert.equal(spec.topologySpreadConstraints, undefined);
  }
  await kube.delete(resources.volcanoPodGroups, { namespace, name: "together-workers" });
  await until("the group again", () => group(resources.volcanoPodGroups, "together"), patience);
  await patch("together", { scheduling: { gang: "None" } });
  await until("no group", async () => (await group(resources.volcanoPodGroups, "together")) === undefined || undefined, patience);
  await until("the spec in effect", async () => (await condition("together")).status === "True" || undefined, patience);
  await patch("together", { suspend: true });
});

test("the coscheduling plugin has its own group and pods, which go when the other scheduler is chosen or no rank is wanted", {
  timeout: 180_000,
}, async () => {
  await kube.create(
    resources.moeDeployments,
    {
      apiVersion: "enodia.dev/v1alpha1",
      kind: "MoEDeployment",
      metadata: { name: "auto", namespace },
      spec: {
        model: { uri: "pvc://models/x" },
        replicas: 3,
        failurePolicy: { minServingReplicas: 2 },
        scheduling: { gang: "Coscheduling" },
      },
    },
    manager,
  );
  await until("a refusal", async () => (await condition("auto"))?.reason === "GangUnavailable" || undefined, patience);
  await apply(...(await coschedulingCrd()));
  const pods = await waiting("auto", 3);
  assert.ok(
    pods.every(({ metadata, spec }) => gangOf(metadata) === "Coscheduling" && spec.schedulerName === "scheduler-plugins-scheduler"),
  );
  assert.equal(pods[0].metadata.labels["scheduling.x-k8s.io/pod-group"], "auto-workers");
  assert.equal((await group(resources.coschedulingPodGroups, "auto")).spec.minMember, 3);
  await patch("auto", { scheduling: { gang: "Volcano" } });
  await until("a group of the other", () => group(resources.volcanoPodGroups, "auto"), patience);
  await until("none of this", async () => (await group(resources.coschedulingPodGroups, "auto")) === undefined || undefined, patience);
  await patch("auto", { suspend: true });
  await until("no group", async () => (await group(resources.volcanoPodGroups, "auto")) === undefined || undefined, patience);
});

test("a claim of a device, a priority and a scheduler of the template are on the pods as the server took them", {
  timeout: 120_000,
}, async () => {
  await sample("gpu-claim.yaml");
  for (const { spec } of await waiting("by-claim", 2)) {
    assert.deepEqual([spec.schedulerName, spec.priorityClassName, spec.priority], ["default-scheduler", "inference", 100000]);
    assert.deepEqual(spec.resourceClaims, [{ name: "gpu", resourceClaimTemplateName: "one-gpu" }]);
    const runtime = spec.containers.find((one: any) => one.name === "runtime");
    assert.deepEqual(runtime.resources.claims, [{ name: "gpu" }]);
  }
  await until("the spec in effect", async () => (await condition("by-claim"))?.status === "True" || undefined, patience);
});
