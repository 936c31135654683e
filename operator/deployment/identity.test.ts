// The owners of certificate Secrets, and what becomes of the others when one goes: namesakes, deletion by hand, the garbage collector.
import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { FakeKube } from "../../test/contract/fake-kube.ts";
import {
  conditionOf,
  kubelet,
  readyWith,
  ref,
  serving,
  startOperator,
  status,
  until,
  user,
  world,
} from "../../test/support/deployment-plane.ts";
import { type KubeObject, resources } from "../kube/kube.ts";

const namespace = "ns";
const caRef = { namespace, name: "moe-ca" };
const gatewayRef = { namespace, name: "moe-gateway-tls" };
const refused = async (kube: FakeKube) => conditionOf(await status(kube), "SpecAccepted");
const text = (secret: KubeObject, key: string) => Buffer.from((secret.data as any)?.[key] ?? "", "base64").toString();

/** Every leaf is signed by the CA in its Secret. */
function oneAuthority(kube: FakeKube): boolean {
  const secrets = kube.all(resources.secrets);
  const ca = secrets.find((secret) => secret.metadata.name === caRef.name);
  const leaves = secrets.filter((secret) => secret.metadata.name.endsWith("-tls"));
  if (!ca || leaves.length === 0) return false;
  const issuer = new X509Certificate(text(ca, "ca.crt"));
  return leaves.every(
    (leaf) => text(leaf, "ca.crt") === text(ca, "ca.crt") && new X509Certificate(text(leaf, "tls.crt")).checkIssued(issuer),
  );
}

async function secret(kube: FakeKube, at: typeof caRef, data: object, more: object = {}): Promise<void> {
  await kube.create(resources.secrets, { apiVersion: "v1", kind: "Secret", metadata: { ...at, ...more }, data }, user);
}

test("a namesake's Secrets are waited out, never adopted, and a collector that comes late takes nothing of ours", {
  timeout: 30_000,
}, async () => {
  const { kube, stop } = await serving();
  const old = await kube.get(resources.secrets, caRef);
  const { metadata: _, status: __, ...rest } = (await kube.get(resources.moeDeployments, ref)) as KubeObject;
  kube.collectsAtOnce = false;
  kube.remove(resources.moeDeployments, ref);
  await kube.create(resources.moeDeployments, { ...rest, metadata: { ...ref } } as KubeObject, user);
  await until("the CA is waited for", async () => (await refused(kube))?.reason === "SecretForeign");
  assert.match((await refused(kube)).message, /Secret moe-ca has another owner/);
  assert.equal((await kube.get(resources.secrets, caRef))?.metadata.uid, old?.metadata.uid);
  kube.collect();
  kube.collectsAtOnce = true;
  await until("3 ranks serve again", readyWith(kube, 3));
  kube.collect();
  await sleep(50);
  assert.notEqual((await kube.get(resources.secrets, caRef))?.metadata.uid, old?.metadata.uid);
  assert.ok(oneAuthority(kube));
  await stop();
});

test("after a CA was deleted by hand all certificates come from one new CA, the operator's too", { timeout: 30_000 }, async () => {
  const { kube, operator, stop } = await serving();
  const { uid = "" } = (await kube.get(resources.moeDeployments, ref))?.metadata ?? {};
  const before = await operator.plane.deployments.identity(ref, uid);
  kube.remove(resources.secrets, caRef);
  await until(
    "a new CA has signed everything",
    () => oneAuthority(kube) && text(kube.all(resources.secrets)[0] as KubeObject, "ca.crt") !== before.ca,
  );
  const after = await operator.plane.deployments.identity(ref, uid);
  assert.equal(after.ca, text((await kube.get(resources.secrets, caRef)) as KubeObject, "ca.crt"));
  assert.ok(new X509Certificate(after.cert).checkIssued(new X509Certificate(after.ca)));
  await stop();
});

test("a leaf that is deleted is made again at once", { timeout: 30_000 }, async () => {
  const { kube, stop } = await serving();
  kube.remove(resources.secrets, gatewayRef);
  await until("it is back", async () => (await kube.get(resources.secrets, gatewayRef)) !== undefined);
  assert.ok(oneAuthority(kube));
  await stop();
});

test("a CA Secret without keys is named in a condition with the remedy, and a person's own Secret is left alone", {
  timeout: 30_000,
}, async () => {
  const kube = await world();
  const { uid = "" } = (await kube.get(resources.moeDeployments, ref))?.metadata ?? {};
  const owner = { apiVersion: "enodia.dev/v1alpha1", kind: "MoEDeployment", name: "moe", uid };
  const labels = { "enodia.dev/deployment": "moe" };
  await secret(kube, caRef, { other: "eA==" }, { ownerReferences: [owner], labels });
  await secret(kube, gatewayRef, { mine: "eA==" });
  let reads = 0;
  const get = kube.get;
  kube.get = async (...args) => {
    reads += 1;
    return get(...args);
  };
  const life = kubelet(kube);
  const operator = await startOperator(kube);
  await until("it is said", async () => (await refused(kube))?.reason === "AuthorityUnusable");
  assert.match((await refused(kube)).message, /Secret moe-ca: ca.crt and ca.key .* delete the Secret/);
  reads = 0;
  await sleep(100);
  assert.ok(reads < 20, `${reads} reads in 100 ms`);
  kube.remove(resources.secrets, caRef);
  await until("the person's Secret is refused", async () => (await refused(kube))?.reason === "SecretForeign");
  assert.deepEqual((await kube.get(resources.secrets, gatewayRef))?.data, { mine: "eA==" });
  life.stop();
  await operator.stop();
});
