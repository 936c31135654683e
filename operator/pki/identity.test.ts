// The owners of certificate Secrets, and what becomes of the others when one goes: namesakes, deletion by hand, the garbage collector.

import assert from "node:assert/strict";
import { createPrivateKey, createPublicKey, X509Certificate } from "node:crypto";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../../crds/common.ts";
import { settings } from "../../test/kit/deployment/deployment.ts";
import { type MoeWorld, ref, serving, world } from "../../test/kit/deployment/moe-world.ts";
import { until } from "../../test/kit/wait.ts";
import { resources } from "../kube/kube.ts";
import { authorityName } from "./authorities.ts";

const leafName = "moe-gateway-tls";
const text = (secret: any, key: string) => Buffer.from(secret?.data?.[key] ?? "", "base64").toString();
const uidOf = async (moe: MoeWorld): Promise<string> => (await moe.get("moeDeployments")).metadata.uid;
const caRefOf = async (moe: MoeWorld) => ({ namespace: settings.namespace, name: authorityName(ref, await uidOf(moe)) });
const leaves = (moe: MoeWorld) => moe.all("secrets").filter(({ metadata }) => metadata.name.endsWith("-tls"));

/** Every leaf is signed by the one CA that there is. */
function oneAuthority(moe: MoeWorld): boolean {
  const [ca, ...others] = moe.all("secrets").filter(({ metadata }) => metadata.namespace === settings.namespace);
  if (!ca || others.length > 0 || leaves(moe).length === 0) return false;
  const issuer = new X509Certificate(text(ca, "ca.crt"));
  return leaves(moe).every(
    (leaf) => text(leaf, "ca.crt").trim() === text(ca, "ca.crt").trim() && new X509Certificate(text(leaf, "tls.crt")).checkIssued(issuer),
  );
}

test("a namesake's Secrets are waited out, never adopted, and a collector that comes late takes nothing of ours", async (t) => {
  const moe = await serving(t);
  const leafUid = async () => (await moe.get("secrets", leafName))?.metadata.uid;
  const [old, { spec }] = [await leafUid(), await moe.get("moeDeployments")];
  moe.kube.collectsAtOnce = false;
  moe.remove("moeDeployments");
  await moe.create(spec);
  await moe.comes("SpecAccepted", "SecretForeign", /Secret moe-gateway-tls has another owner/);
  assert.equal(await leafUid(), old);
  moe.kube.collect();
  moe.kube.collectsAtOnce = true;
  await moe.serves(3);
  moe.kube.collect();
  await sleep(50);
  assert.ok(![undefined, old].includes(await leafUid()));
  assert.ok(await moe.kube.get(resources.secrets, await caRefOf(moe)));
});

test("a pod's gate opens after its Secret is written, also by an operator that finds both; a gate of another stays", async (t) => {
  const gates = (moe: MoeWorld) => moe.pods.map(({ spec }) => spec.schedulingGates.map(({ name }: { name: string }) => name));
  const moe = await world(t, { podTemplate: { spec: { schedulingGates: [{ name: "quota" }] } } });
  let refused = ["Secret", "Pod"];
  moe.kube.onWrite = (verb, { kind }, name) => {
    const ofPods = name.endsWith("-tls") && !name.startsWith("moe-gateway");
    if (kind === "Secret" ? ofPods && refused.includes(kind) : kind === "Pod" && verb === "patch" && refused.includes(kind))
      throw new AppError("away", { code: "Unavailable" });
  };
  await moe.start();
  const secrets = () => leaves(moe).filter(({ metadata }) => metadata.name !== leafName).length;
  const all = (...names: string[]) => assert.deepEqual(gates(moe), [names, names, names]);
  await until("pods", () => moe.pods.length === 3);
  all("quota", "enodia.dev/certificate");
  refused = ["Pod"];
  moe.wake();
  await until("their Secrets", () => secrets() === 3);
  all("quota", "enodia.dev/certificate");
  refused = [];
  await moe.start();
  await until("open gates", () => gates(moe).flat().length === 3);
  all("quota");
});

test("a gate that a policy keeps shut is told of with its words, and opens once it lets it", async (t) => {
  const moe = await world(t);
  let denied = true;
  moe.kube.onWrite = (verb, { kind }) => {
    if (denied && kind === "Pod" && verb === "patch")
      throw new AppError("policy owners denied the request", { code: "Invalid", retry: "never" });
  };
  await moe.start();
  await until("its words", async () => JSON.stringify((await moe.status())?.conditions ?? []).includes("policy owners denied the request"));
  denied = false;
  moe.wake();
  await moe.serves(3);
});

test("after a CA was deleted by hand all certificates come from one new CA, the operator's too", async (t) => {
  const moe = await serving(t);
  const [uid, caRef] = [await uidOf(moe), await caRefOf(moe)];
  const identity = () => moe.operator.deployments.identity(ref, uid);
  const before = await identity();
  moe.kube.remove(resources.secrets, caRef);
  const certificate = async () => text(await moe.kube.get(resources.secrets, caRef), "ca.crt").trim();
  await until("a new CA has signed everything", async () => oneAuthority(moe) && !before.ca.includes(await certificate()));
  const after = await identity();
  assert.equal(after.ca.trim(), await certificate());
  await until("it is told", () => moe.events("AuthorityReplaced").some(({ type }) => type === "Warning"));
  assert.ok(new X509Certificate(after.cert).checkIssued(new X509Certificate(after.ca)));
});

test("a leaf that somebody changes is made again, whoever manages it by now, and one that is deleted at once", async (t) => {
  const moe = await serving(t);
  const nonsense = Buffer.from("nonsense").toString("base64");
  moe.mutate("secrets", leafName, (one) => Object.assign(one.data, { "tls.crt": nonsense }), { manager: "other-team" });
  await until("it is a leaf again", async () => (await moe.get("secrets", leafName)).data["tls.crt"] !== nonsense);
  assert.ok(oneAuthority(moe));
  moe.remove("secrets", leafName);
  await until("it is back", async () => (await moe.get("secrets", leafName)) !== undefined);
  assert.ok(oneAuthority(moe));
});

test("a CA Secret without keys is named in a condition with the remedy, and a person's own Secret is left alone", async (t) => {
  const moe = await world(t);
  const caRef = await caRefOf(moe);
  const labels = {
    "enodia.dev/component": "authority",
    "enodia.dev/authority-namespace": ref.namespace,
    "enodia.dev/authority-deployment": ref.name,
    "enodia.dev/authority-uid": await uidOf(moe),
  };
  await moe.make("secrets", caRef.name, { metadata: { labels }, data: { other: "eA==" } }, caRef);
  await moe.make("secrets", leafName, { data: { mine: "eA==" } });
  const reads = t.mock.method(moe.kube, "get").mock;
  await moe.start();
  const remedy = /Secret enodia-ca\.ns\.moe\.\S+ in namespace enodia-system: .* delete the Secret/;
  await moe.comes("SpecAccepted", "AuthorityUnusable", remedy);
  reads.resetCalls();
  await sleep(100);
  assert.ok(reads.callCount() < 20, `${reads.callCount()} reads in 100 ms`);
  moe.kube.remove(resources.secrets, caRef);
  await moe.comes("SpecAccepted", "SecretForeign");
  assert.deepEqual((await moe.get("secrets", leafName)).data, { mine: "eA==" });
});

test("nothing in the deployment's namespace holds the key of a CA", async (t) => {
  const moe = await serving(t);
  const here = moe.all("secrets").filter(({ metadata }) => metadata.namespace === ref.namespace);
  /** A key that no leaf beside it is for. */
  const isAuthority = (key: string) => {
    const spki = createPublicKey(createPrivateKey(key)).export({ type: "spki", format: "der" });
    return !here.some((one) => {
      const cert = text(one, "tls.crt") && new X509Certificate(text(one, "tls.crt"));
      return cert && !cert.ca && cert.publicKey.export({ type: "spki", format: "der" }).equals(spki);
    });
  };
  const keys = here.flatMap((one) => Object.keys(one.data ?? {}).map((entry) => text(one, entry)));
  assert.deepEqual(
    keys.filter((key) => key.includes("PRIVATE KEY") && isAuthority(key)),
    [],
  );
});

test("a CA that nears its end freezes nothing: a leader that starts then makes, certifies and connects as before", async (t) => {
  const yearMs = 365 * 86_400_000;
  const moe = await serving(t);
  for (const years of [9.1, 9.99, 10.5]) {
    await moe.stop();
    const aheadMs = years * yearMs;
    moe.aheadMs = aheadMs;
    await moe.start();
    moe.remove("pods", moe.pods[0].metadata.name);
    await moe.serves(3);
    await moe.check("SpecAccepted", "True");
    const lasts = (cert: string) => new X509Certificate(cert).validToDate.getTime() > Date.now() + aheadMs;
    await until(`no certificate has ended after ${years} years`, async () => {
      const { cert } = await moe.operator.deployments.identity(ref, await uidOf(moe));
      return [cert, ...leaves(moe).map((leaf) => text(leaf, "tls.crt"))].every(lasts);
    });
  }
});
