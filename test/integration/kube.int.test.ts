// The Kube contract on a real API server, the CRDs as the server enforces them, and the deployment plane under fields that it refuses.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { parse } from "yaml";
import { AppError } from "../../crds/common.ts";
import { gatewayDeployment } from "../../operator/deployment/objects/gateway.ts";
import { type Kube, type KubeObject, refOf, resources } from "../../operator/kube/kube.ts";
import { down } from "../cluster/cluster.ts";
import { runKubeContract } from "../contract/kube.ts";
import { deployment, settings } from "../kit/deployment/deployment.ts";
import { until } from "../kit/processes/process.ts";
import { type ControlPlane, controlPlane, root } from "./control-plane.ts";
import { startDeploymentPlane } from "./deployment-plane.ts";

const name = "kube-int";
const namespace = "contract";
/** Where the operator would run. */
const system = "contract-system";
let kube: Kube;
let kubectl: ControlPlane["kubectl"];
const manager = { manager: "test" };

before(
  async () => {
    ({ kube, kubectl } = await controlPlane(name, 0));
    for (const name of [namespace, system])
      await kube.create(resources.namespaces, { apiVersion: "v1", kind: "Namespace", metadata: { name } }, manager);
  },
  { timeout: 600_000 },
);

after(() => down(name));

runKubeContract({
  make: async () => ({ kube, namespace }),
  skip: {
    "a watch from a version long gone is Expired":
      "etcd keeps the history of the first minutes; the informer's unit test covers the relist",
  },
});

const sample = (): any => {
  const object = parse(readFileSync(join(root, "crds/samples/smol-moe.yaml"), "utf8"));
  return { ...object, metadata: { name: `s-${Math.random().toString(36).slice(2, 8)}`, namespace } };
};

test("every sample is accepted by the server", async () => {
  await kubectl("create", "namespace", "serving");
  await kubectl("apply", "--dry-run=server", "-n", namespace, "-f", join(root, "crds/samples/smol-moe.yaml"));
  await kubectl("apply", "--dry-run=server", "-f", join(root, "crds/samples/production.yaml"));
  await kubectl("apply", "--dry-run=server", "-f", join(root, "crds/samples/complete.yaml"));
  await kubectl("apply", "--dry-run=server", "-n", namespace, "-f", join(root, "crds/samples/hub-model.yaml"));
  for (const kind of ["cuda", "vulkan"])
    await kubectl("apply", "--dry-run=server", "-n", namespace, "-f", join(root, `crds/samples/gpu-${kind}.yaml`));
});

const refused: Record<string, { change: (spec: any) => void; want: RegExp }> = {
  "a path out of the claim": { change: (spec) => Object.assign(spec.model, { uri: "pvc://models/../etc" }), want: /must be pvc:/ },
  "a topology of another mode": {
    change: (spec) => Object.assign(spec, { scheduling: { topology: { key: "example.com/rack", mode: "Near" } } }),
    want: /Unsupported value: "Near": supported values: "Pack", "Spread"/,
  },
  "another gang scheduler": { change: (spec) => Object.assign(spec, { scheduling: { gang: "Kai" } }), want: /Unsupported value: "Kai"/ },
  "an unknown policy": { change: (spec) => Object.assign(spec.rebalancing, { policy: "best" }), want: /Unsupported value: "best"/ },
  "an unknown field": { change: (spec) => Object.assign(spec, { parallelism: {} }), want: /unknown field "spec\.parallelism"/ },
  "an autoscaler of gateways without a maximum": {
    change: (spec) => Object.assign(spec, { gateway: { autoscale: { minReplicas: 2 } } }),
    want: /gateway\.autoscale\.maxReplicas: Required/,
  },
  "all origins beside one": {
    change: (spec) => Object.assign(spec, { gateway: { cors: { allowOrigins: ["*", "https://app.example.com"] } } }),
    want: /or \* alone/,
  },
  "TLS without a Secret": {
    change: (spec) => Object.assign(spec, { gateway: { tls: {} } }),
    want: /gateway\.tls\.secretRef: Required/,
  },
  "an issuer of tokens without TLS": {
    change: (spec) => Object.assign(spec, { gateway: { jwt: { issuer: "http://id.example.com", audience: "chat" } } }),
    want: /gateway\.jwt\.issuer: Invalid value.*should match/,
  },
  "tokens for everybody": {
    change: (spec) => Object.assign(spec, { gateway: { jwt: { issuer: "https://id.example.com" } } }),
    want: /gateway\.jwt\.audience: Required/,
  },
  "a backend that there is not": {
    change: (spec) => Object.assign(spec, { runtime: { backend: "webgpu" } }),
    want: /backend: Unsupported value: "webgpu": supported values: "Auto", "cpu"/,
  },
  "a codec that there is not": {
    change: (spec) => Object.assign(spec, { runtime: { expertCodec: "int4" } }),
    want: /expertCodec: Unsupported value: "int4": supported values: "q4_0"/,
  },
};
for (const [sentence, { change, want }] of Object.entries(refused)) {
  test(`the server refuses ${sentence} and says what to do`, async () => {
    const object = sample();
    change(object.spec);
    await assert.rejects(kube.create(resources.moeDeployments, object, manager), (error: unknown) => {
      assert.ok(error instanceof AppError);
      assert.equal(error.code, "Invalid");
      assert.match(error.message, want);
      return true;
    });
  });
}

test("a long name and the name default are refused, since Services, pods and a ServiceAccount are named after it", async () => {
  const object = sample();
  object.metadata.name = "a".repeat(41);
  await assert.rejects(kube.create(resources.moeDeployments, object, manager), /at most 40 characters/);
  object.metadata.name = "default"; // the ServiceAccount of that name is the namespace's
  await assert.rejects(kube.create(resources.moeDeployments, object, manager), /and not default/);
});

test("model and codec may change while ranks serve: that is a roll", async () => {
  const made = await kube.create(resources.moeDeployments, sample(), manager);
  const ref = { namespace, name: made.metadata.name };
  const change = { model: { uri: "pvc://models/other" }, runtime: { expertCodec: "f32" } };
  const { spec }: any = await kube.patch(resources.moeDeployments, ref, { spec: change }, manager);
  assert.deepEqual([spec.model.uri, spec.runtime.expertCodec], ["pvc://models/other", "f32"]);
});

test("kubectl scale works within the bounds and is refused beyond them, and explain reads well", async () => {
  const made = await kube.create(resources.moeDeployments, sample(), manager);
  const ref = { namespace, name: made.metadata.name };
  await kubectl("-n", namespace, "scale", "moed", ref.name, "--replicas=2");
  assert.equal(((await kube.get(resources.moeDeployments, ref)) as any).spec.replicas, 2);
  await assert.rejects(kubectl("-n", namespace, "scale", "moed", ref.name, "--replicas=7"), /above elasticity\.maxReplicas/);
  assert.match(await kubectl("explain", "moed.spec.experts.memoryPerRank"), /Resident bytes of experts each rank may hold/);
  assert.match(await kubectl("-n", namespace, "get", "moe"), /moedeployment\.enodia\.dev/);
});

test("the defaults the server fills are those zod fills", async () => {
  const { moeDeploymentSpecSchema } = await import("../../crds/moe-deployment.ts");
  const object: KubeObject = { ...sample(), spec: { model: { uri: "pvc://models/x" } } };
  const made = await kube.create(resources.moeDeployments, object, manager);
  assert.deepEqual(made.spec, moeDeploymentSpecSchema.parse(object.spec));
});

const illTyped: Readonly<Record<string, (container: any, pod: any) => void>> = {
  "an unknown field": (container) => Object.assign(container, { foo: 1 }),
  "an unknown field of the pod": (_, pod) => Object.assign(pod, { foo: 1 }),
  "text in the place of a list": (_, pod) => Object.assign(pod, { tolerations: "all" }),
  "a list in the place of text": (container) => Object.assign(container, { image: ["a"] }),
  "a number in the place of text": (_, pod) => Object.assign(pod, { nodeSelector: { a: 1 } }),
  "a quantity that is none": (container) => Object.assign(container, { resources: { limits: { cpu: "much" } } }),
  "two variables of one name": (container) => container.env.push({ name: "A", value: "1" }, { name: "A", value: "2" }),
  "a class that no object can have": (_, pod) => Object.assign(pod, { priorityClassName: "nope nope" }),
};
for (const [what, spoil] of Object.entries(illTyped)) {
  test(`${what} in a gateway Deployment is Invalid, never something to try again`, async () => {
    const object = gatewayDeployment({ deployment: deployment(), settings }) as any;
    Object.assign(object.metadata, { namespace, name: `g-${Math.random().toString(36).slice(2, 8)}`, ownerReferences: [] });
    await kube.apply(resources.deployments, object, manager);
    spoil(object.spec.template.spec.containers[0], object.spec.template.spec);
    await assert.rejects(
      kube.apply(resources.deployments, object, manager),
      (error: AppError) => error.code === "Invalid" && error.retry === "never",
    );
  });
}

test("a bad field stops no replacement, under this leader or the next", { timeout: 120_000 }, async (t) => {
  let stop = async (): Promise<void> => {};
  t.after(() => stop());
  const at = { namespace, name: "heal" };
  const spec = { model: { uri: "pvc://models/x" }, replicas: 2 };
  await kube.create(resources.moeDeployments, { apiVersion: "enodia.dev/v1alpha1", kind: "MoEDeployment", metadata: at, spec }, manager);
  const workers = async (): Promise<any[]> =>
    (await kube.list(resources.pods, { namespace, labelSelector: "enodia.dev/deployment=heal,enodia.dev/component=worker" })).items;
  const both = () =>
    until("both pods", async () => ((await workers()).length === 2 ? workers() : undefined), { timeoutMs: 30_000, everyMs: 100 });
  const condition = async (type: string) =>
    ((await kube.get(resources.moeDeployments, at))?.status as any)?.conditions?.find((one: any) => one.type === type);
  const says = (want: RegExp) =>
    until(String(want), async () => want.test((await condition("SpecAccepted"))?.message ?? "") || undefined, {
      timeoutMs: 30_000,
      everyMs: 100,
    });
  const hashOf = (pod: any): string => pod.metadata.annotations["enodia.dev/template-hash"];
  const lose = async (rank: number) => {
    const [lost] = (await workers()).filter((pod) => pod.metadata.labels["enodia.dev/rank"] === String(rank));
    await kube.delete(resources.pods, { namespace, name: lost.metadata.name }, { uid: lost.metadata.uid, graceSeconds: 0 });
  };
  stop = await startDeploymentPlane(kube, namespace, { system });
  const [first] = await both();
  const container = { name: "gateway", foo: 1 };
  await kube.patch(resources.moeDeployments, at, { spec: { gateway: { podTemplate: { spec: { containers: [container] } } } } }, manager);
  await says(
    /spec\.gateway\.podTemplate\.spec\.containers.*foo.*; correct spec\.gateway\.podTemplate; meanwhile the spec of generation 1/s,
  );
  assert.equal((await condition("SpecAccepted")).status, "False");
  await lose(1);
  assert.deepEqual(new Set((await both()).map(hashOf)), new Set([hashOf(first)]));

  await kube.patch(resources.moeDeployments, at, { spec: { podTemplate: { spec: { priorityClassName: "nope nope" } } } }, manager);
  await says(/no PriorityClass with name nope nope was found; correct spec\.podTemplate\.spec\.priorityClassName/);
  await stop();
  await lose(0);
  stop = await startDeploymentPlane(kube, namespace, { system });
  assert.deepEqual(new Set((await both()).map(hashOf)), new Set([hashOf(first)]));
  const before = (await workers()).map((pod) => pod.metadata.uid).sort();
  await kube.patch(resources.moeDeployments, at, { spec: { podTemplate: null, gateway: { podTemplate: null } } }, manager);
  await says(/every field is in effect/);
  assert.deepEqual((await workers()).map((pod) => pod.metadata.uid).sort(), before);

  const revisions = async () =>
    (await kube.list(resources.controllerRevisions, { namespace, labelSelector: "enodia.dev/deployment=heal" })).items;
  assert.equal((await revisions()).length, 1);
  await kube.patch(resources.moeDeployments, at, { spec: { runtime: { maxContext: 64 } } }, manager);
  await until("a newer revision", async () => (await revisions()).some((one) => one.revision === 2) || undefined, {
    timeoutMs: 30_000,
    everyMs: 100,
  });
  // As the garbage collector does it for an orphaning delete.
  const [revision] = (await revisions()) as [KubeObject];
  const freed = await kube.patch(resources.controllerRevisions, refOf(revision), { metadata: { ownerReferences: null } }, manager);
  assert.equal(freed.metadata.ownerReferences, undefined);
});
