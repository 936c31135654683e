// The operator as a process against a real control plane, with exactly the permissions that the chart gives it. One node without
// the product's images: pods are made, admitted and scheduled, and cannot start, which is what most of these tests want.
import assert from "node:assert/strict";
import type { ChildProcess } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { claimName } from "../../operator/kube/claims.ts";
import { type Kube, type KubeObject, resources } from "../../operator/kube/kube.ts";
import { applies } from "../../operator/kube/managed-fields.ts";
import { ensureBinaries } from "../cluster/binaries.ts";
import { down } from "../cluster/cluster.ts";
import { namespaceObjects } from "../kit/deployment/product.ts";
import { type Collector, startCollector } from "../kit/processes/collector.ts";
import { until as poll } from "../kit/processes/process.ts";
import { type ControlPlane, controlPlane } from "./control-plane.ts";
import { accessObjects, installName, type OperatorProcess, operatorKubeconfig, startOperatorProcess } from "./operator-process.ts";

const name = "operator-int";
const namespace = "moe";
const system = "enodia-system";
const install = { system, watched: [namespace] };
const manager = { manager: "test" };
const folder = mkdtempSync(join(tmpdir(), "enodia-operator-"));
let kube: Kube;
let kubectl: ControlPlane["kubectl"];
let apply: ControlPlane["apply"];
let kubeconfig = "";
let collector: Collector;
const running = new Set<ChildProcess>();

/** Waits for something that is there, or for true. */
const until = <T>(what: string, probe: () => Promise<T>, options: { timeoutMs: number }) =>
  poll(what, async () => (await probe()) || undefined, options) as Promise<NonNullable<T>>;

before(
  async () => {
    ({ kube, kubectl, apply } = await controlPlane(name));
    await apply(
      { apiVersion: "v1", kind: "Namespace", metadata: { name: system } },
      ...namespaceObjects(namespace, folder),
      ...accessObjects(install),
      { apiVersion: "rbac.authorization.k8s.io/v1", kind: "ClusterRole", metadata: { name: installName }, rules: [] },
    );
    kubeconfig = await operatorKubeconfig({ kubectl }, system, folder);
    collector = await startCollector((await ensureBinaries(() => {}, { only: ["otelcol"] })).otelcol);
  },
  { timeout: 600_000 },
);

after(async () => {
  for (const child of running) child.kill("SIGKILL");
  await collector?.stop();
  rmSync(folder, { recursive: true, force: true });
  await down(name);
});

function startOperator(replica: string): OperatorProcess {
  const env = { ENODIA_OTLP_ENDPOINT: collector.endpoint };
  const started = startOperatorProcess({ ...install, replica, kubeconfig, folder, env });
  running.add(started.child);
  return started;
}

async function end({ child }: OperatorProcess, signal: NodeJS.Signals): Promise<void> {
  const ended = new Promise((resolve) => child.once("exit", resolve));
  child.kill(signal);
  await ended;
  running.delete(child);
}

const holder = async () =>
  ((await kube.get(resources.leases, { namespace: system, name: "enodia-operator" }))?.spec as any)?.holderIdentity;
const workers = async (of: string) =>
  (await kube.list(resources.pods, { namespace, labelSelector: `enodia.dev/deployment=${of},enodia.dev/component=worker` })).items as any[];
const condition = async (of: string, type: string) =>
  ((await kube.get(resources.moeDeployments, { namespace, name: of }))?.status as any)?.conditions?.find((one: any) => one.type === type);
const create = (of: string, spec: object = {}) =>
  kube.create(
    resources.moeDeployments,
    {
      apiVersion: "enodia.dev/v1alpha1",
      kind: "MoEDeployment",
      metadata: { name: of, namespace },
      spec: { model: { uri: "pvc://models/tiny" }, replicas: 2, elasticity: { settle: "1s" }, ...spec },
    },
    manager,
  );
const patch = (of: string, spec: object) => kube.patch(resources.moeDeployments, { namespace, name: of }, { spec }, manager);

test("two replicas, one leads; apply makes pods that the restricted level admits, and says why they do not start", {
  timeout: 120_000,
}, async () => {
  const first = startOperator("op-a");
  await until("op-a to lead", async () => (await holder()) === "op-a", { timeoutMs: 30_000 });
  startOperator("op-b");
  await create("moe");
  const pods = await until("two pods", async () => ((await workers("moe")).length === 2 ? workers("moe") : undefined), {
    timeoutMs: 30_000,
  });
  assert.deepEqual(pods.map((pod) => pod.metadata.labels["enodia.dev/rank"]).sort(), ["0", "1"]);
  const role = (await kube.get(resources.clusterRoles, { namespace: "", name: installName })) ?? assert.fail();
  for (const lease of [
    { namespace: system, name: `${installName}-operator` },
    { namespace, name: claimName },
  ]) {
    const { ownerReferences } = (await kube.get(resources.leases, lease))?.metadata ?? {};
    const owner = { apiVersion: role.apiVersion, kind: role.kind, name: installName, uid: role.metadata.uid };
    assert.deepEqual(ownerReferences, [owner], `${lease.name} goes with the install`);
  }
  for (const pod of pods) {
    const secret = await until(
      "its certificate",
      () => kube.get(resources.secrets, { namespace, name: `${pod.metadata.name}-tls` }) as Promise<any>,
      { timeoutMs: 10_000 },
    );
    assert.deepEqual(Object.keys(secret.data).sort(), ["ca.crt", "tls.crt", "tls.key"]);
    assert.equal(secret.metadata.ownerReferences[0].uid, pod.metadata.uid);
  }
  await until("the reason to show", async () => /ErrImageNeverPull/.test((await condition("moe", "Ready"))?.message ?? ""), {
    timeoutMs: 60_000,
  });
  assert.equal((await condition("moe", "SpecAccepted")).status, "True");
  const events = await kubectl("-n", namespace, "get", "events", "--field-selector", "reason=RankCreated", "-o", "name");
  assert.equal(events.trim().split("\n").length, 2);
  assert.ok(
    !first.log.some((line) => /forbidden|Forbidden/.test(line)),
    first.log.find((line) => /orbidden/.test(line)),
  );
});

test("the /scale subresource: kubectl scale up and down, the selector finds the pods", { timeout: 120_000 }, async () => {
  await kubectl("-n", namespace, "scale", "moed", "moe", "--replicas=3");
  await until("three pods", async () => (await workers("moe")).length === 3, { timeoutMs: 30_000 });
  const scale = JSON.parse(await kubectl("get", "--raw", `/apis/enodia.dev/v1alpha1/namespaces/${namespace}/moedeployments/moe/scale`));
  assert.equal(scale.status.selector, "enodia.dev/deployment=moe,enodia.dev/component=worker");
  await until(
    "scale to count them",
    async () =>
      JSON.parse(await kubectl("get", "--raw", `/apis/enodia.dev/v1alpha1/namespaces/${namespace}/moedeployments/moe/scale`)).status
        .replicas === 3,
    { timeoutMs: 30_000 },
  );
  await kubectl("-n", namespace, "scale", "moed", "moe", "--replicas=1");
  await until("one pod", async () => (await workers("moe")).length === 1, { timeoutMs: 90_000 });
});

test("a leader that is killed is replaced, and the new one changes no pod", { timeout: 120_000 }, async () => {
  const uids = (await workers("moe")).map((pod) => pod.metadata.uid);
  const leader = [...running].find((child) => child.exitCode === null);
  assert.ok(leader);
  assert.equal(await holder(), "op-a");
  leader.kill("SIGKILL");
  running.delete(leader);
  await until("op-b to lead", async () => (await holder()) === "op-b", { timeoutMs: 40_000 });
  await patch("moe", { gateway: { replicas: 2 } });
  await until(
    "the gateway to follow",
    async () => ((await kube.get(resources.deployments, { namespace, name: "moe-gateway" })) as any).spec.replicas === 2,
    { timeoutMs: 30_000 },
  );
  assert.deepEqual(
    (await workers("moe")).map((pod) => pod.metadata.uid),
    uids,
  );
});

test("what somebody else changes or deletes is put back", { timeout: 60_000 }, async () => {
  await kubectl("-n", namespace, "patch", "service", "moe", "--type=merge", "-p", '{"spec":{"selector":{"enodia.dev/component":"other"}}}');
  await kubectl("-n", namespace, "delete", "pdb", "moe-workers");
  await kubectl("-n", namespace, "delete", "secret", "moe-gateway-tls");
  const healed = async () => {
    const service = (await kube.get(resources.services, { namespace, name: "moe" })) as any;
    const there = await Promise.all([
      kube.get(resources.podDisruptionBudgets, { namespace, name: "moe-workers" }),
      kube.get(resources.secrets, { namespace, name: "moe-gateway-tls" }),
    ]);
    return service.spec.selector["enodia.dev/component"] === "gateway" && there.every((object) => object !== undefined);
  };
  await until("all three to be back", healed, { timeoutMs: 30_000 });
});

test("a number of gateways that is taken out of the spec stays, and is whose who scales them; an autoscaler comes and goes", {
  timeout: 120_000,
}, async () => {
  const front = { namespace, name: "moe-gateway" };
  const replicas = async () => ((await kube.get(resources.deployments, front)) as any).spec.replicas;
  const autoscaler = async () => (await kube.get(resources.horizontalPodAutoscalers, front)) as any;
  /** A pass that has seen all that was written before. */
  const pass = async () => {
    await kubectl("-n", namespace, "delete", "pdb", "moe-workers");
    const budget = { namespace, name: "moe-workers" };
    await until("the budget to be back", () => kube.get(resources.podDisruptionBudgets, budget), { timeoutMs: 30_000 });
  };
  const owned = async () => applies("enodia-operator", (await kube.get(resources.deployments, front)) as KubeObject, ["spec", "replicas"]);
  assert.ok(await owned());
  await patch("moe", { gateway: { replicas: null } });
  await until("the number to be given up", async () => !(await owned()), { timeoutMs: 30_000 });
  assert.equal(await replicas(), 2);
  await kubectl("-n", namespace, "scale", "deployment/moe-gateway", "--replicas=3");
  await pass();
  await pass();
  assert.equal(await replicas(), 3);
  await patch("moe", { gateway: { autoscale: { minReplicas: 1, maxReplicas: 4 } } });
  await until("an autoscaler", autoscaler, { timeoutMs: 30_000 });
  assert.equal((await autoscaler()).spec.metrics[0].containerResource.target.averageUtilization, 80);
  assert.equal((await condition("moe", "FieldConflict")).status, "False");
  await patch("moe", { gateway: { autoscale: null, replicas: 1 } });
  await until("the spec's number, and no autoscaler", async () => (await replicas()) === 1 && (await autoscaler()) === undefined, {
    timeoutMs: 30_000,
  });
});

test("a field that another manages stays as it is, and a condition names it", { timeout: 60_000 }, async () => {
  const change = ["patch", "pdb", "moe-gateway", "--field-manager=other-team", "--type=merge", "-p", '{"spec":{"maxUnavailable":2}}'];
  await kubectl("-n", namespace, ...change);
  const conflict = async () => condition("moe", "FieldConflict");
  await until("it to be said", async () => (await conflict())?.status === "True", { timeoutMs: 30_000 });
  const want = "PodDisruptionBudget moe-gateway stays as it is: .spec.maxUnavailable is managed by other-team; ";
  const { message } = await conflict();
  assert.ok(message.startsWith(want), message);
  const budget = { namespace, name: "moe-gateway" };
  assert.equal(((await kube.get(resources.podDisruptionBudgets, budget)) as any).spec.maxUnavailable, 2);
  // The remedy as it is told, for what a manager has left.
  const clear = /kubectl -n moe (patch poddisruptionbudget moe-gateway --type=merge -p) '(.*)'/.exec(message);
  await kubectl("-n", namespace, ...(clear?.[1] ?? "").split(" "), clear?.[2] ?? "");
  await until("it to be solved", async () => (await conflict()).status === "False", { timeoutMs: 45_000 });
  assert.equal(((await kube.get(resources.podDisruptionBudgets, budget)) as any).spec.maxUnavailable, 1);
});

test("what cannot be is refused with the server's reason, and nothing is made or lost", { timeout: 120_000 }, async () => {
  const uids = (await workers("moe")).map((pod) => pod.metadata.uid);
  const refused = (want: RegExp) => async () => {
    const found = await condition("moe", "SpecAccepted");
    return found.status === "False" && want.test(found.message);
  };
  const template = (spec: object) => patch("moe", { podTemplate: { spec } });
  await template({ hostNetwork: true });
  await until("hostNetwork to be refused", refused(/podTemplate\.spec\.hostNetwork must be false/), { timeoutMs: 30_000 });
  await template({ hostNetwork: null, unheardOf: 1 });
  await until("the unknown field to be refused", refused(/unknown field "spec\.podTemplate\.spec\.unheardOf"/), { timeoutMs: 30_000 });
  await template({ unheardOf: null, containers: [{ name: "runtime", securityContext: { allowPrivilegeEscalation: true } }] });
  await until("the Pod Security level to refuse", refused(/violates PodSecurity "restricted/), { timeoutMs: 30_000 });
  await patch("moe", { podTemplate: null });
  await until("it to be accepted", async () => (await condition("moe", "SpecAccepted")).status === "True", { timeoutMs: 30_000 });
  assert.deepEqual(
    (await workers("moe")).map((pod) => pod.metadata.uid),
    uids,
  );
  await create("lost", { model: { uri: "pvc://nowhere/tiny" } });
  await until("the claim to be missed", async () => (await condition("lost", "ModelAvailable"))?.reason === "ClaimNotFound", {
    timeoutMs: 30_000,
  });
});

test("a Service of somebody else is left alone until it is gone, and what a deleted namesake left is no obstacle", {
  timeout: 120_000,
}, async () => {
  const at = { namespace, name: "taken" };
  const service = { apiVersion: "v1", kind: "Service", metadata: at, spec: { selector: { app: "chat" }, ports: [{ port: 80 }] } };
  const made = await kube.create(resources.services, service, manager);
  await create("taken", { replicas: 0 });
  const accepted = async () => condition("taken", "SpecAccepted");
  await until("it to be refused", async () => (await accepted())?.reason === "ObjectRefused", { timeoutMs: 30_000 });
  assert.match((await accepted()).message, /Service taken exists and does not belong to this MoEDeployment/);
  assert.deepEqual(await kube.get(resources.services, at), made);
  await kube.delete(resources.services, at);
  await until("it to be accepted", async () => (await accepted())?.status === "True", { timeoutMs: 30_000 });

  await kube.delete(resources.moeDeployments, at);
  const { uid } = (await create("taken", { replicas: 0 })).metadata;
  const owned = async () => (await kube.get(resources.services, at))?.metadata.ownerReferences?.every((owner) => owner.uid === uid);
  await until("the new one to have its Service", async () => (await accepted())?.status === "True" && (await owned()), {
    timeoutMs: 60_000,
  });
});

/** The CAs of deployments named moe, which are in the operator's namespace. */
async function authorities() {
  return (await kube.list(resources.secrets, { namespace: system, labelSelector: "enodia.dev/authority-deployment=moe" })).items;
}

test("suspend takes the pods and keeps the rest; delete takes everything", { timeout: 180_000 }, async () => {
  await patch("moe", { suspend: true });
  await until("no pods", async () => (await workers("moe")).length === 0, { timeoutMs: 90_000 });
  assert.equal((await condition("moe", "Ready")).reason, "Suspended");
  assert.equal((await authorities()).length, 1);
  await patch("moe", { suspend: false });
  await until("a pod", async () => (await workers("moe")).length === 1, { timeoutMs: 30_000 });
  await kubectl("-n", namespace, "delete", "moed", "--all", "--timeout=30s");
  const left = async () =>
    (
      await kubectl(
        "-n",
        namespace,
        "get",
        "pods,services,deployments,controllerrevisions,pdb,hpa,secrets,serviceaccounts,eplace",
        "-l",
        "enodia.dev/deployment",
        "-o",
        "name",
      )
    ).trim();
  await until("nothing to be left", async () => (await left()) === "", { timeoutMs: 100_000 });
  await until("the CAs to go too", async () => (await authorities()).length === 0, { timeoutMs: 60_000 });
});

test("SIGTERM gives the lease back, and sends the last spans before", { timeout: 60_000 }, async () => {
  const leader = [...running].find((child) => child.exitCode === null);
  assert.ok(leader);
  await end({ child: leader, log: [] }, "SIGTERM");
  assert.equal(leader.exitCode, 0);
  assert.equal(await holder(), "");
  const reconciles = () => collector.spans().filter((span) => span.name === "operator.reconcile");
  const ofMoe = await until("spans", async () => reconciles().find(({ attributes }) => attributes["enodia.object"] === "moe/moe"), {
    timeoutMs: 10_000,
  });
  assert.equal(ofMoe.service, "enodia-operator");
  assert.equal(ofMoe.attributes["enodia.controller"], "moedeployment");
  assert.match(String(ofMoe.attributes["k8s.pod.name"]), /^op-/);
});
