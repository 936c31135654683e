// Lives of deployments on a real API server with its garbage collector, under the operator as a process that may work in one namespace
// only: several writers of one object, to zero and back, and each way to delete. There is no node: pods are made and admitted, and wait.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { AppError, apiVersion } from "../../crds/common.ts";
import { type Kube, type KubeObject, resources } from "../../operator/kube/kube.ts";
import { down } from "../cluster/cluster.ts";
import { type ControlPlane, controlPlane, root } from "../integration/control-plane.ts";
import { accessObjects, type OperatorProcess, operatorKubeconfig, startOperatorProcess } from "../integration/operator-process.ts";
import { until as poll, stop } from "../kit/processes/process.ts";

const cluster = "lives-int";
const namespace = "lives";
/** Another namespace, in which the operator may do nothing. */
const outside = "outside";
const system = "lives-system";
const install = { system, watched: [namespace] };
const folder = mkdtempSync(join(tmpdir(), "enodia-lives-"));
const manager = { manager: "test" };
/** A time in which the operator would have done what it is not to do. */
const quietMs = 3_000;
/** Long enough for a busy machine. */
const waitMs = 240_000;
const testMs = 900_000;
let kube: Kube;
let plane: ControlPlane;
let operator: OperatorProcess | undefined;

before(
  async () => {
    plane = await controlPlane(cluster, 0);
    ({ kube } = plane);
    const spaces = [namespace, outside, system].map((name) => ({ apiVersion: "v1", kind: "Namespace", metadata: { name } }));
    await plane.apply(...spaces);
    const claim = { accessModes: ["ReadWriteMany"], resources: { requests: { storage: "1Gi" } } };
    const claims = [namespace, outside].map((at) => ({
      ...{ apiVersion: "v1", kind: "PersistentVolumeClaim", metadata: { name: "models", namespace: at } },
      spec: claim,
    }));
    await plane.apply(...claims, ...accessObjects(install));
    const kubeconfig = await operatorKubeconfig(plane, system, folder);
    operator = startOperatorProcess({ ...install, replica: "op-a", kubeconfig, folder });
    const lease = { namespace: system, name: "enodia-operator" };
    await until("the operator to lead", async () => ((await kube.get(resources.leases, lease)) as any)?.spec.holderIdentity === "op-a");
  },
  { timeout: testMs },
);
after(async () => {
  if (operator) await stop(operator.child);
  rmSync(folder, { recursive: true, force: true });
  await down(cluster);
});

/** The error has the last words of the operator. */
async function until<T>(what: string, probe: () => Promise<T>): Promise<NonNullable<T>> {
  try {
    return (await poll(what, async () => (await probe()) || undefined, { timeoutMs: waitMs, everyMs: 200 })) as NonNullable<T>;
  } catch (caught) {
    throw new Error(`${caught}\n${operator?.log.slice(-8).join("\n")}`);
  }
}
const quick = { settle: "1ms", drain: "1ms" };
const spec = (more: object = {}) => ({ model: { uri: "pvc://models/tiny" }, replicas: 2, elasticity: quick, ...more });
const object = (name: string, more: object = {}, at = namespace): KubeObject => ({
  ...{ apiVersion, kind: "MoEDeployment", metadata: { name, namespace: at } },
  spec: spec(more),
});
const create = (name: string, more: object = {}, at = namespace) => kube.create(resources.moeDeployments, object(name, more, at), manager);
const remove = (name: string) => kube.delete(resources.moeDeployments, { namespace, name });
const get = async (name: string): Promise<any> => kube.get(resources.moeDeployments, { namespace, name });
const workers = async (name: string): Promise<any[]> =>
  (await kube.list(resources.pods, { namespace, labelSelector: `enodia.dev/deployment=${name},enodia.dev/component=worker` })).items;
const owners = ({ metadata }: KubeObject): string[] => (metadata.ownerReferences ?? []).map(({ uid }) => uid);
const uidsOf = (objects: readonly KubeObject[]) => objects.map(({ metadata }) => metadata.uid).sort();
const scaled = (name: string, count: number) =>
  until(`${name} has ${count} ranks`, async () => (await workers(name)).filter((pod) => !pod.metadata.deletionTimestamp).length === count);
const ownedKinds = "pods,services,deployments,controllerrevisions,pdb,secrets,serviceaccounts,configmaps,expertplacements";
const left = async (name: string): Promise<string[]> =>
  (await plane.kubectl("-n", namespace, "get", ownedKinds, "-l", `enodia.dev/deployment=${name}`, "-o", "name"))
    .split("\n")
    .filter((line) => line !== "");
const whole = async (name: string) =>
  (await get(name))?.status?.conditions?.some((one: any) => one.type === "SpecAccepted" && one.status === "True");

/** As the HPA writes: through /scale. */
const hpa = (name: string, replicas: number) =>
  plane.kubectl(
    ...["-n", namespace, "patch", "moed", name, "--subresource=scale", "--type=merge", "--field-manager=hpa"],
    ...["-p", JSON.stringify({ spec: { replicas } })],
  );
/** As a GitOps controller writes: what is in its repository, server-side, without force. */
const gitops = (name: string, more: object, options: { force?: boolean } = {}) =>
  kube.apply(
    resources.moeDeployments,
    { ...object(name), spec: { model: { uri: "pvc://models/tiny" }, ...more } },
    { manager: "gitops", ...options },
  );

test("an autoscaler and a GitOps controller write at once: each has its fields, and the operator fights neither", {
  timeout: testMs,
}, async () => {
  await gitops("two", { replicas: 1, elasticity: quick });
  await scaled("two", 1);
  await hpa("two", 2);
  await assert.rejects(gitops("two", { replicas: 1, elasticity: quick }), (error: unknown) => {
    assert.ok(error instanceof AppError && error.code === "FieldConflict", String(error));
    assert.match(error.message, /hpa[\s\S]*\.spec\.replicas|\.spec\.replicas[\s\S]*hpa/);
    return true;
  });
  // Its repository without the field: from now on the number is the autoscaler's.
  const rounds = 8;
  for (let round = 1; round <= rounds; round++) {
    const drain = `${round}ms`;
    await Promise.all([hpa("two", 1 + (round % 3)), gitops("two", { elasticity: { ...quick, drain } })]);
  }
  await scaled("two", 1 + (rounds % 3));
  const found = await get("two");
  assert.deepEqual([found.spec.replicas, found.spec.elasticity.drain], [1 + (rounds % 3), `${rounds}ms`]);
  const fields = found.metadata.managedFields as { manager: string; subresource?: string }[];
  assert.deepEqual(
    fields.filter(({ manager: by }) => by.startsWith("enodia")).map(({ subresource }) => subresource),
    ["status"],
    JSON.stringify(fields.map(({ manager: by, subresource }) => [by, subresource])),
  );
  // One that forces takes it, and the autoscaler takes it back: both are obeyed.
  await gitops("two", { replicas: 4, elasticity: quick }, { force: true });
  await scaled("two", 4);
  await hpa("two", 2);
  await scaled("two", 2);
  await remove("two");
});

test("a scale that was read before another wrote is a Conflict", async () => {
  await create("stale", { replicas: 0 });
  const path = `/apis/${apiVersion}/namespaces/${namespace}/moedeployments/stale/scale`;
  const read = JSON.parse(await plane.kubectl("get", "--raw", path));
  await hpa("stale", 1);
  const file = join(folder, "scale.json");
  writeFileSync(file, JSON.stringify({ ...read, spec: { replicas: 3 } }));
  await assert.rejects(plane.kubectl("replace", "--raw", path, "-f", file), /the object has been modified/);
  assert.equal((await get("stale")).spec.replicas, 1);
  await remove("stale");
});

test("from 4 to 0 and back to 4: what is no pod stays, and ranks are made anew", { timeout: testMs }, async () => {
  await create("zero", { replicas: 4 });
  await scaled("zero", 4);
  const first = await workers("zero");
  const address = async () => ((await kube.get(resources.services, { namespace, name: "zero" })) as any).spec.clusterIP;
  const ip = await address();
  await hpa("zero", 0);
  await until("no pod", async () => (await workers("zero")).length === 0);
  await until("the status to say so", async () => (await get("zero")).status.replicas === 0);
  await hpa("zero", 4);
  await scaled("zero", 4);
  const second = await workers("zero");
  assert.deepEqual(second.map((pod) => pod.metadata.labels["enodia.dev/rank"]).sort(), ["0", "1", "2", "3"]);
  assert.ok(second.every((pod) => !uidsOf(first).includes(pod.metadata.uid)));
  assert.equal(await address(), ip);
  await remove("zero");
});

test("one that is deleted and made again at once under its name has its own objects, and none of the old one's", {
  timeout: testMs,
}, async () => {
  let last = await create("again", {});
  for (let life = 0; life < 3; life++) {
    await scaled("again", 2);
    await remove("again");
    last = await create("again", {});
  }
  const { uid = "" } = last.metadata;
  await until("all to be the last one's", async () => {
    const pods = await workers("again");
    const service = await kube.get(resources.services, { namespace, name: "again" });
    return pods.length === 2 && pods.every((pod) => owners(pod).join() === uid) && service && owners(service).join() === uid;
  });
  await until("it to be accepted", () => whole("again"));
  await sleep(quietMs);
  assert.equal((await workers("again")).length, 2, "the garbage collector took none of them for the old one's");
  await remove("again");
});

/** A line of the operator's log that says that it lacks a right; admission forbids too, such as a pod before its account is there. */
const forbidden = (): string | undefined => operator?.log.find((line) => /cannot \w+ resource/.test(line));

/** A finalizer of ours, so that a deletion takes as long as the test wants. */
const hold = "example.com/hold";

test("background and foreground deletion leave nothing, and meanwhile nothing is made again", { timeout: testMs }, async () => {
  for (const cascade of ["background", "foreground"]) {
    const name = cascade.slice(0, 4);
    await create(name, {});
    await scaled(name, 2);
    await kube.patch(resources.moeDeployments, { namespace, name }, { metadata: { finalizers: [hold] } }, manager);
    await plane.kubectl("-n", namespace, "delete", "moed", name, `--cascade=${cascade}`, "--wait=false");
    await until("its deletion to have begun", async () => (await get(name))?.metadata.deletionTimestamp !== undefined);
    await sleep(quietMs); // the operator hears of it on another watch than of pods
    const pods = await workers(name);
    for (const pod of pods) await kube.delete(resources.pods, { namespace, name: pod.metadata.name }, { graceSeconds: 0 });
    await sleep(quietMs);
    assert.deepEqual(uidsOf(await workers(name)), [], `${cascade}: a rank of what is being deleted was made again`);
    const finalizers = ((await get(name)).metadata.finalizers as string[]).filter((one) => one !== hold); // foreground has one of its own
    await kube.patch(resources.moeDeployments, { namespace, name }, { metadata: { finalizers } }, manager);
    await until("nothing to be left", async () => (await get(name)) === undefined && (await left(name)).length === 0);
  }
  const authorities = async () =>
    (await kube.list(resources.secrets, { namespace: system, labelSelector: "enodia.dev/authority-deployment in (back,fore)" })).items;
  await until("their CAs to be gone", async () => (await authorities()).length === 0);
});

test("orphaning deletion leaves everything; one of the same name takes it over, and the command of the guide clears it", {
  timeout: testMs,
}, async () => {
  await create("orphan", {});
  await scaled("orphan", 2);
  await until("it to be accepted", () => whole("orphan"));
  const old = uidsOf(await workers("orphan"));
  const service = await kube.get(resources.services, { namespace, name: "orphan" });
  await plane.kubectl("-n", namespace, "delete", "moed", "orphan", "--cascade=orphan");
  await until("the owners to be gone", async () => (await workers("orphan")).every((pod) => owners(pod).length === 0));
  await sleep(quietMs);
  assert.deepEqual(uidsOf(await workers("orphan")), old, "they run on");
  const { uid = "" } = (await create("orphan", {})).metadata;
  const adopted = await until("its Service to be taken over", async () => {
    const found = await kube.get(resources.services, { namespace, name: "orphan" });
    return found && owners(found).join() === uid ? found : undefined;
  });
  assert.equal(adopted.metadata.uid, service?.metadata.uid, "the same Service, with its address");
  await until(
    "its own ranks beside the old ones",
    async () => (await workers("orphan")).filter((pod) => owners(pod).join() === uid).length === 2,
  );
  assert.deepEqual(uidsOf((await workers("orphan")).filter((pod) => owners(pod).length === 0)), old, "they serve until the new ones do");
  await plane.kubectl("-n", namespace, "delete", "moed", "orphan", "--cascade=orphan");
  const guide = readFileSync(join(root, "operator/docs/failures.md"), "utf8");
  const kinds = /kubectl -n NS delete (\S+) -l enodia\.dev\/deployment=NAME/.exec(guide)?.[1] ?? "";
  await plane.kubectl("-n", namespace, "delete", kinds, "-l", "enodia.dev/deployment=orphan", "--timeout=60s");
  await until("nothing to be left", async () => (await left("orphan")).length === 0);
});

test("in namespaced mode the operator sees and may touch its own namespaces alone", { timeout: testMs }, async () => {
  await create("far", {}, outside);
  await create("near", {});
  await scaled("near", 2);
  await sleep(quietMs);
  const far: any = await kube.get(resources.moeDeployments, { namespace: outside, name: "far" });
  assert.equal(far.status, undefined, "nobody looked at it");
  const made = await plane.kubectl("-n", outside, "get", ownedKinds, "-l", "enodia.dev/deployment", "-o", "name");
  assert.equal(made.trim(), "");
  const may = async (verb: string, resource: string, ...at: string[]): Promise<boolean> => {
    const as = `--as=system:serviceaccount:${system}:operator`;
    return (await plane.kubectl("auth", "can-i", verb, resource, as, ...at).catch(() => "no")).trim() === "yes";
  };
  assert.deepEqual(
    await Promise.all([
      may("create", "pods", "-n", namespace),
      may("create", "pods", "-n", outside),
      may("list", "pods", "-n", outside),
      may("get", "secrets", "-n", outside),
      may("list", "moedeployments.enodia.dev", "-A"),
      may("update", "moedeployments.enodia.dev", "-n", namespace),
    ]),
    [true, false, false, false, false, false],
  );
  assert.equal(forbidden(), undefined);
});
