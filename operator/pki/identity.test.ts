// The owners of certificate Secrets, and what becomes of the others when one goes: namesakes, deletion by hand, the garbage collector.

import assert from "node:assert/strict";
import { createPrivateKey, createPublicKey, X509Certificate } from "node:crypto";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { settings } from "../../test/kit/deployment/deployment.ts";
import {
  conditionOf,
  kubelet,
  pods,
  readyWith,
  ref,
  serving,
  startOperator,
  status,
  user,
  world,
} from "../../test/kit/deployment/deployment-plane.ts";
import type { FakeKube } from "../../test/kit/kube/fake-kube.ts";
import { until } from "../../test/kit/wait.ts";
import { type KubeObject, resources } from "../kube/kube.ts";
import { authorityName } from "./authorities.ts";

const namespace = "ns";
const gatewayRef = { namespace, name: "moe-gateway-tls" };
const refused = async (kube: FakeKube) => conditionOf(await status(kube), "SpecAccepted");
const text = (secret: KubeObject, key: string) => Buffer.from((secret.data as any)?.[key] ?? "", "base64").toString();

async function uidOf(kube: FakeKube): Promise<string> {
  return (await kube.get(resources.moeDeployments, ref))?.metadata.uid ?? "";
}

async function caRefOf(kube: FakeKube) {
  return { namespace: settings.namespace, name: authorityName(ref, await uidOf(kube)) };
}

/** Every leaf is signed by the one CA that there is. */
function oneAuthority(kube: FakeKube): boolean {
  const secrets = kube.all(resources.secrets);
  const [ca, ...others] = secrets.filter((secret) => secret.metadata.namespace === settings.namespace);
  if (others.length > 0) return false;
  const leaves = secrets.filter((secret) => secret.metadata.name.endsWith("-tls"));
  if (!ca || leaves.length === 0) return false;
  const issuer = new X509Certificate(text(ca, "ca.crt"));
  return leaves.every(
    (leaf) => text(leaf, "ca.crt").trim() === text(ca, "ca.crt").trim() && new X509Certificate(text(leaf, "tls.crt")).checkIssued(issuer),
  );
}

async function secret(kube: FakeKube, at: typeof gatewayRef, data: object, more: object = {}): Promise<void> {
  await kube.create(resources.secrets, { apiVersion: "v1", kind: "Secret", metadata: { ...at, ...more }, data }, user);
}

test("a namesake's Secrets are waited out, never adopted, and a collector that comes late takes nothing of ours", {
  timeout: 30_000,
}, async () => {
  const { kube, stop } = await serving();
  const old = await kube.get(resources.secrets, gatewayRef);
  const { metadata: _, status: __, ...rest } = (await kube.get(resources.moeDeployments, ref)) as KubeObject;
  kube.collectsAtOnce = false;
  kube.remove(resources.moeDeployments, ref);
  await kube.create(resources.moeDeployments, { ...rest, metadata: { ...ref } } as KubeObject, user);
  await until("the Secret is waited for", async () => (await refused(kube))?.reason === "SecretForeign");
  assert.match((await refused(kube)).message, /Secret moe-gateway-tls has another owner/);
  assert.equal((await kube.get(resources.secrets, gatewayRef))?.metadata.uid, old?.metadata.uid);
  kube.collect();
  kube.collectsAtOnce = true;
  await until("3 ranks serve again", readyWith(kube, 3));
  kube.collect();
  await sleep(50);
  const { uid } = (await kube.get(resources.secrets, gatewayRef))?.metadata ?? {};
  assert.ok(uid !== undefined && uid !== old?.metadata.uid);
  assert.ok(await kube.get(resources.secrets, await caRefOf(kube)));
  await stop();
});

test("after a CA was deleted by hand all certificates come from one new CA, the operator's too", { timeout: 30_000 }, async () => {
  const { kube, operator, stop } = await serving();
  const uid = await uidOf(kube);
  const caRef = await caRefOf(kube);
  const before = await operator.deployments.identity(ref, uid);
  kube.remove(resources.secrets, caRef);
  const certificate = async () => text((await kube.get(resources.secrets, caRef)) ?? ({} as KubeObject), "ca.crt");
  await until("a new CA has signed everything", async () => oneAuthority(kube) && !before.ca.includes((await certificate()).trim()));
  const after = await operator.deployments.identity(ref, uid);
  assert.equal(after.ca.trim(), (await certificate()).trim());
  const told = () => kube.all(resources.events).some((event) => event.reason === "AuthorityReplaced" && event.type === "Warning");
  await until("it is told", told);
  assert.ok(new X509Certificate(after.cert).checkIssued(new X509Certificate(after.ca)));
  await stop();
});

test("a leaf that somebody changes is made again, whoever manages it by now", { timeout: 30_000 }, async () => {
  const { kube, stop } = await serving();
  const nonsense = Buffer.from("nonsense").toString("base64");
  const change = (one: any) => Object.assign(one.data, { "tls.crt": nonsense });
  kube.mutate(resources.secrets, gatewayRef, change, { manager: "other-team" });
  await until("it is a leaf again", async () => ((await kube.get(resources.secrets, gatewayRef)) as any).data["tls.crt"] !== nonsense);
  assert.ok(oneAuthority(kube));
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
  const caRef = await caRefOf(kube);
  const labels = {
    "enodia.dev/component": "authority",
    "enodia.dev/authority-namespace": ref.namespace,
    "enodia.dev/authority-deployment": ref.name,
    "enodia.dev/authority-uid": await uidOf(kube),
  };
  await secret(kube, caRef, { other: "eA==" }, { labels });
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
  assert.match((await refused(kube)).message, /Secret enodia-ca\.ns\.moe\.\S+ in namespace enodia-system: .* delete the Secret/);
  reads = 0;
  await sleep(100);
  assert.ok(reads < 20, `${reads} reads in 100 ms`);
  kube.remove(resources.secrets, caRef);
  await until("the person's Secret is refused", async () => (await refused(kube))?.reason === "SecretForeign");
  assert.deepEqual((await kube.get(resources.secrets, gatewayRef))?.data, { mine: "eA==" });
  life.stop();
  await operator.stop();
});

/** Every Secret in the deployment's namespace, and what of it is a key that belongs to a CA. */
function authorityKeysIn(kube: FakeKube): string[] {
  const here = kube.all(resources.secrets).filter(({ metadata }) => metadata.namespace === namespace);
  const isAuthority = (key: string) => {
    const spki = createPublicKey(createPrivateKey(key)).export({ type: "spki", format: "der" });
    return !here.some((one) => {
      const cert = text(one, "tls.crt") && new X509Certificate(text(one, "tls.crt"));
      return cert && !cert.ca && cert.publicKey.export({ type: "spki", format: "der" }).equals(spki);
    });
  };
  return here.flatMap((one) =>
    Object.keys((one.data ?? {}) as object)
      .filter((entry) => text(one, entry).includes("PRIVATE KEY") && isAuthority(text(one, entry)))
      .map((entry) => `${one.metadata.name} ${entry}`),
  );
}

test("nothing in the deployment's namespace holds the key of a CA", { timeout: 30_000 }, async () => {
  const { kube, stop } = await serving();
  assert.deepEqual(authorityKeysIn(kube), []);
  await stop();
});

test("a CA that nears its end freezes nothing: a leader that starts then makes, certifies and connects as before", {
  timeout: 60_000,
}, async () => {
  const yearMs = 365 * 86_400_000;
  const kube = await world();
  const life = kubelet(kube);
  const begun = Date.now();
  let at = begun;
  const now = () => new Date(at);
  let operator = await startOperator(kube, { now });
  await until("3 ranks serve", readyWith(kube, 3));
  for (const years of [9.1, 9.99, 10.5]) {
    await operator.stop();
    at = begun + years * yearMs;
    operator = await startOperator(kube, { now });
    kube.remove(resources.pods, { namespace, name: pods(kube)[0].metadata.name });
    await until(`3 ranks serve after ${years} years`, readyWith(kube, 3));
    assert.equal((await refused(kube)).status, "True");
    const lasts = (cert: string) => new X509Certificate(cert).validToDate > now();
    const all = () => kube.all(resources.secrets).filter(({ metadata }) => metadata.name.endsWith("-tls"));
    await until(`no certificate has ended after ${years} years`, async () => {
      const { cert } = await operator.deployments.identity(ref, await uidOf(kube));
      return [cert, ...all().map((leaf) => text(leaf, "tls.crt"))].every(lasts);
    });
  }
  life.stop();
  await operator.stop();
});
