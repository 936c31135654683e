// The telemetry Secret: made with a deployment, mended, rotated, and never taken from somebody else.

import assert from "node:assert/strict";
import { test } from "node:test";
import { decodeTelemetryKeys } from "../../../crds/telemetry-keys.ts";
import { deployment, settings } from "../../../test/kit/deployment/deployment.ts";
import { ref as moeRef, serving, user, world } from "../../../test/kit/deployment/moe-world.ts";
import { FakeKube } from "../../../test/kit/kube/fake-kube.ts";
import { until } from "../../../test/kit/wait.ts";
import { Informers } from "../../kube/informers.ts";
import { resources } from "../../kube/kube.ts";
import { textOf } from "../../pki/authorities.ts";
import { NatsCredentials } from "./nats-credentials.ts";
import { NatsIssuer } from "./nats-issuer.ts";
import { Records } from "./records.ts";
import { TelemetrySecrets } from "./telemetry-secret.ts";

const ref = { namespace: "ns", name: "moe-telemetry" };
const dayMs = 86_400_000;

async function opened(kube = new FakeKube(), own = settings) {
  const informers = new Informers([], settings.namespace, { kube, random: () => 0 });
  informers.start();
  await informers.refresh();
  let now = Date.parse("2026-03-01T00:00:00Z");
  const { namespace, natsSecrets: names } = own;
  const issuer = names === undefined ? undefined : new NatsIssuer({ kube, namespace, secrets: names, now: () => new Date(now) });
  const nats = new NatsCredentials(kube, own, issuer);
  const secrets = new TelemetrySecrets({ kube, informers, nats, records: new Records(), now: () => new Date(now) });
  const found = () => secrets.keys(moeRef, "uid-moe");
  const ensure = async (spec: object = {}) => {
    const moed = deployment(spec);
    await secrets.ensure(moed, await secrets.credentials(moed));
    await until("the cache has it", async () => {
      const live = await kube.get(resources.secrets, ref);
      return live?.metadata.resourceVersion === informers.get("secrets", ref)?.metadata.resourceVersion;
    });
    return found();
  };
  const pass = (days: number): void => {
    now += days * dayMs;
  };
  return { kube, secrets, found, ensure, pass, stop: () => informers.stop() };
}

test("a deployment has a key from its first pass on, which stands until its time is over and is taken for a day after that", async () => {
  const { found, ensure, pass, stop } = await opened();
  assert.match(found().problem ?? "", /moe-telemetry is not there yet/);
  const first = await ensure();
  assert.equal(first.keys?.length, 1);
  assert.deepEqual(await ensure(), first);
  pass(31);
  const both = await ensure();
  assert.equal(both.keys?.length, 2);
  assert.deepEqual(both.keys?.[1], first.keys?.[0]);
  pass(2);
  assert.deepEqual((await ensure()).keys, both.keys?.slice(0, 1));
  await stop();
});

test("a Secret that cannot be read is named, and made anew; one of somebody else is left alone", async () => {
  const { kube, secrets, found, ensure, stop } = await opened();
  await ensure();
  kube.mutate(resources.secrets, ref, (one) => Object.assign(one, { data: { keys: Buffer.from("nonsense").toString("base64") } }));
  await until("it is seen", async () => /telemetry keys: not JSON/.test(found().problem ?? ""));
  assert.equal((await ensure()).keys?.length, 1);
  kube.mutate(resources.secrets, ref, (one) =>
    Object.assign(one.metadata, { ownerReferences: [{ ...one.metadata.ownerReferences[0], uid: "other" }] }),
  );
  await until("it is seen", async () => /another owner or none; delete or rename it/.test(found().problem ?? ""));
  const before = await kube.get(resources.secrets, ref);
  await secrets.ensure(deployment(), {});
  assert.deepEqual(await kube.get(resources.secrets, ref), before);
  await kube.create(resources.moeDeployments, { apiVersion: "enodia.dev/v1alpha1", kind: "MoEDeployment", metadata: { ...moeRef } }, user);
  kube.mutate(resources.moeDeployments, moeRef, (one) => Object.assign(one.metadata, { uid: "uid-moe" }));
  kube.mutate(resources.secrets, ref, (one) => Object.assign(one.metadata, { ownerReferences: [] }));
  const known = decodeTelemetryKeys(Buffer.from((before as any).data.keys, "base64").toString());
  await ensure(); // when the cache has heard of it
  const { keys = [] } = await ensure();
  assert.equal(keys.length, 1);
  assert.notDeepEqual(keys, known, "an orphan's key may be known to anybody");
  await stop();
});

test("the key is there before the first pod, which the kubelet would else let wait a minute for it", async (t) => {
  const moe = await world(t);
  const written: string[] = [];
  moe.kube.admit = ({ kind }, { metadata }) => void written.push(kind === "Pod" ? kind : metadata.name);
  await moe.start();
  await moe.serves(3);
  assert.ok(written.includes(ref.name));
  const before = written.slice(0, written.indexOf(ref.name)).filter((one) => one === "Pod");
  assert.deepEqual(before, ["Pod"], "the trial of its template");
});

test("a key that cannot be written holds up no pod, and is written as soon as it can be", async (t) => {
  const moe = await serving(t);
  moe.refuse((_, { metadata }) => metadata.name === ref.name && "secrets is forbidden");
  moe.remove("secrets", ref.name);
  await moe.change({ replicas: 4 });
  await moe.serves(4);
  await moe.check("SpecAccepted", "True");
  moe.refuse(() => false);
  await until("the key is there", async () => (await moe.get("secrets", ref.name)) !== undefined);
  const { keys } = (await moe.get("secrets", ref.name)).data;
  assert.equal(decodeTelemetryKeys(Buffer.from(keys, "base64").toString()).length, 1);
});

test("workers get a copy of the credentials that the spec names, as they are now, and none of a Secret of another type", async () => {
  const { kube, ensure, pass, stop } = await opened();
  const named = { namespace: "ns", name: "creds" };
  const spec = { telemetry: { nats: { url: "nats://elsewhere:4222", credentialsSecretRef: { name: named.name } } } };
  const entries = async () => {
    const data = (await kube.get(resources.secrets, ref))?.data as Record<string, string>;
    const [keys, ...others] = Object.entries(data).sort(([a], [b]) => (a === "keys" ? -1 : b === "keys" ? 1 : a.localeCompare(b)));
    assert.equal(keys?.[0], "keys");
    return others.map(([entry, text]) => [entry, Buffer.from(text, "base64").toString()]);
  };
  const create = (type: string) => {
    const data = { token: Buffer.from("t").toString("base64"), other: Buffer.from("o").toString("base64") };
    return kube.create(resources.secrets, { apiVersion: "v1", kind: "Secret", metadata: named, type, data }, user);
  };
  const later = async () => {
    pass(1 / 24);
    return ensure(spec);
  };
  assert.equal((await ensure(spec)).keys?.length, 1);
  assert.deepEqual(await entries(), [], "it does not wait for them");
  await create("Opaque");
  await later();
  assert.deepEqual(await entries(), []);
  kube.remove(resources.secrets, named);
  await create("enodia.dev/nats-credentials");
  await later();
  assert.deepEqual(await entries(), [["token", "t"]]);
  kube.mutate(resources.secrets, named, (one) => Object.assign(one.data, { token: Buffer.from("t2").toString("base64") }));
  await later();
  assert.deepEqual(await entries(), [["token", "t2"]]);
  kube.remove(resources.secrets, named);
  await later();
  assert.deepEqual(await entries(), []);
  await stop();
});

test("ranks have a user of the chart's NATS, which stays while it is good, also for another leader, and replaces a former token", async () => {
  const own = { ...settings, natsSecrets: "enodia-nats" };
  const { kube, secrets, ensure, pass, stop } = await opened(new FakeKube(), own);
  const entry = async (name: string) => {
    const live = await kube.get(resources.secrets, ref);
    return live && textOf(live, name);
  };
  await secrets.ensure(deployment(), { token: "t" });
  await ensure();
  const first = await entry("user.creds");
  assert.match(first ?? "", /BEGIN NATS USER JWT/);
  assert.equal(await entry("token"), undefined);
  pass(1);
  await ensure();
  assert.equal(await entry("user.creds"), first);
  await stop();
  const next = await opened(kube, own);
  await next.ensure();
  assert.equal(await entry("user.creds"), first);
  next.pass(31);
  await next.ensure();
  assert.notEqual(await entry("user.creds"), first);
  await next.stop();
});

test("keys are made and rotated while credentials cannot be read, which stay as they were", async () => {
  const { kube, secrets, ensure, pass, stop } = await opened();
  const entries = async () => (await kube.get(resources.secrets, ref)) ?? assert.fail();
  await secrets.ensure(deployment(), { token: "t" });
  const first = textOf(await entries(), "keys");
  pass(31);
  await secrets.ensure(deployment(), undefined);
  assert.equal(textOf(await entries(), "token"), "t");
  assert.notEqual(textOf(await entries(), "keys"), first);
  await ensure();
  assert.equal(textOf(await entries(), "token"), undefined);
  await stop();
});
