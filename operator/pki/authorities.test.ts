// The renewal of a CA as pods see it: at no time may one of them get to know a certificate that it does not trust yet, whatever
// becomes of the operator meanwhile. Clocks are fake; pods have what their Secrets said half a day ago, or say now.

import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { test } from "node:test";
import { AppError } from "../../crds/common.ts";
import { deployment, settings } from "../../test/kit/deployment/deployment.ts";
import { FakeKube } from "../../test/kit/kube/fake-kube.ts";
import { type KubeObject, resources } from "../kube/kube.ts";
import { Authorities, authorityName, renewBeforeMs } from "./authorities.ts";
import { certifiedDeployment } from "./certified.ts";
import { Identities } from "./identity.ts";

const hourMs = 3600_000;
const begun = Date.UTC(2026, 0, 1);
const caLifeMs = 3650 * 24 * hourMs;
const due = begun + caLifeMs - renewBeforeMs + hourMs;
/** Far more than kubelets need, and half of what the operator waits for. */
const lagMs = 12 * hourMs;
const moe = deployment();
const { uid } = moe.metadata;
const pods = [{ rank: 0, name: "moe-0-abcde", uid: "pod-0", gates: [] }];
const text = (secret: KubeObject | undefined, entry: string) =>
  Buffer.from((secret?.data as any)?.[entry] ?? "", "base64").toString("utf8");
const certificatesOf = (bundle: string) =>
  bundle
    .split(/(?=-----BEGIN)/)
    .filter((pem) => pem.trim() !== "")
    .map((pem) => new X509Certificate(pem));

/** What a process has, PEM: its certificate, and those of the CAs that it trusts. */
interface Material {
  readonly cert: string;
  readonly ca: string;
}

/** Answers of `trusts`, which is asked the same thing again and again. */
const answers = new Map<string, boolean>();

function trusts(bundle: string, pem: string): boolean {
  const question = `${bundle}${pem}`;
  const known = answers.get(question);
  if (known !== undefined) return known;
  const cert = new X509Certificate(pem);
  const answer = certificatesOf(bundle).some((ca) => cert.checkIssued(ca) && cert.verify(ca.publicKey));
  answers.set(question, answer);
  return answer;
}

class World {
  readonly kube = new FakeKube();
  readonly stages: string[] = [];
  at = begun;
  #identities = this.#start();
  #history: { readonly at: number; readonly materials: readonly Material[] }[] = [];

  /** An operator that knows nothing but what is stored. */
  #start(): Identities {
    const now = () => new Date(this.at);
    const informers = { get: () => undefined };
    const authorities = new Authorities({
      of: certifiedDeployment,
      kube: this.kube,
      informers,
      namespace: settings.namespace,
      event: () => {},
      now,
    });
    return new Identities({ of: certifiedDeployment, kube: this.kube, informers, authorities, now });
  }

  restart(): void {
    this.#identities = this.#start();
  }

  get secret(): any {
    const name = authorityName(moe.metadata, uid);
    return this.kube.all(resources.secrets).find((one) => one.metadata.name === name) as any;
  }

  /** One look of the operator; a `restart` before each makes it go by durable state alone. */
  async pass(): Promise<AppError | undefined> {
    const failure = await this.#identities.ensureAll(moe, pods, { gateways: "certify", roles: [] });
    const data = Object.keys((this.secret?.data ?? {}) as object);
    const stage = data.includes("next.key") ? "Announced" : data.includes("previous.crt") ? "Succeeded" : "Steady";
    if (this.stages.at(-1) !== stage) this.stages.push(stage);
    return failure;
  }

  /** Passes at one time until nothing more is to be done. */
  async settle(restarts: boolean): Promise<void> {
    for (let writes = -1; writes !== this.kube.writes; ) {
      writes = this.kube.writes;
      if (restarts) this.restart();
      assert.equal(await this.pass(), undefined);
    }
    await this.observe();
  }

  /** Looks at what everyone has: all have to trust all, whether they have their Secret as it is or as it was. */
  async observe(): Promise<void> {
    const { cert, ca } = await this.#identities.operator(moe.metadata, uid);
    const leaves = this.kube.all(resources.secrets).filter(({ metadata }) => metadata.namespace === moe.metadata.namespace);
    const materials = [...leaves.map((leaf) => ({ cert: text(leaf, "tls.crt"), ca: text(leaf, "ca.crt") })), { cert, ca }];
    this.#history.push({ at: this.at, materials });
    const before = this.#history.findLast(({ at }) => at <= this.at - lagMs)?.materials ?? materials;
    const seen = [...before, ...materials];
    for (const mine of seen)
      for (const other of seen)
        assert.ok(trusts(mine.ca, other.cert), `${new X509Certificate(other.cert).subject} is a stranger at ${new Date(this.at)}`);
  }
}

test("the key of the CA is in the operator's namespace, under the names of its deployment, and nowhere else", async () => {
  const world = new World();
  await world.settle(false);
  const { metadata } = world.secret;
  assert.deepEqual([metadata.namespace, metadata.name, metadata.ownerReferences], ["enodia-system", "enodia-ca.ns.moe.uid-moe", undefined]);
  assert.deepEqual(metadata.labels, {
    "app.kubernetes.io/name": "enodia",
    "app.kubernetes.io/managed-by": "enodia-operator",
    "enodia.dev/component": "authority",
    "enodia.dev/authority-namespace": "ns",
    "enodia.dev/authority-deployment": "moe",
    "enodia.dev/authority-uid": "uid-moe",
    "enodia.dev/authority-kind": "MoEDeployment",
  });
  const key = text(world.secret, "ca.key");
  assert.match(key, /BEGIN PRIVATE KEY/);
  const others = world.kube.all(resources.secrets).filter((one) => one.metadata.namespace === "ns");
  assert.equal(others.length, 2);
  for (const one of others) for (const entry of Object.keys(one.data as object)) assert.notEqual(text(one, entry), key);
  const writes = world.kube.writes;
  await world.settle(true);
  assert.equal(world.kube.writes, writes, "nothing is written twice");
});

for (const restarts of [false, true]) {
  test(`a CA is renewed long before its end, and nobody meets a stranger${restarts ? "; each look is a new operator's" : ""}`, async () => {
    const world = new World();
    await world.settle(restarts);
    const first = text(world.secret, "ca.crt");
    for (world.at = due; world.stages.at(-1) !== "Steady" || text(world.secret, "ca.crt") === first; world.at += 6 * hourMs) {
      await world.settle(restarts);
      assert.ok(world.at < due + 10 * 24 * hourMs, "it comes to an end");
    }
    assert.deepEqual(world.stages, ["Steady", "Announced", "Succeeded", "Steady"]);
    assert.deepEqual(Object.keys(world.secret.data).sort(), ["ca.crt", "ca.key"]);
    assert.equal(certificatesOf(text(world.kube.all(resources.secrets)[1], "ca.crt")).length, 1);
    assert.ok(new X509Certificate(text(world.secret, "ca.crt")).validToDate.getTime() > begun + 17 * 365 * 24 * hourMs);
  });
}

/** The life of a CA with an operator that dies before its n-th write, as if after the one before, and is then away for three days. */
async function dieAt(n: number): Promise<number> {
  const world = new World();
  let writes = 0;
  let dead = false;
  world.kube.onWrite = () => {
    if (!dead) writes += 1;
    dead ||= writes === n;
    if (dead) throw new AppError("killed", { code: "Unavailable" });
  };
  const live = async () => {
    for (let before = -1; before !== writes; ) {
      before = writes;
      await world.pass().catch(() => {});
      if (!dead) continue;
      dead = false;
      world.restart();
      await world.observe();
      world.at += 72 * hourMs;
      before = -1;
    }
    await world.observe();
  };
  await live();
  const first = text(world.secret, "ca.crt");
  world.at = Math.max(world.at, due);
  for (let day = 0; day < 3; day++, world.at += 25 * hourMs) await live();
  assert.notEqual(text(world.secret, "ca.crt"), first);
  assert.deepEqual(Object.keys(world.secret.data).sort(), ["ca.crt", "ca.key"]);
  return writes;
}

test("the operator may die at any write of a renewal, and be away for days: nobody meets a stranger, and the renewal ends", async () => {
  const total = await dieAt(-1);
  assert.ok(total >= 12, `${total} writes`);
  for (let n = 1; n <= total; n++) await dieAt(n);
});

test("a Secret that is put back to what it was lets the renewal wait for it anew", async () => {
  const world = new World();
  await world.settle(false);
  const ref = { namespace: "ns", name: "moe-gateway-tls" };
  const old = (await world.kube.get(resources.secrets, ref))?.data;
  world.at = due;
  await world.settle(true);
  world.at += 23 * hourMs;
  world.kube.mutate(resources.secrets, ref, (one) => Object.assign(one, { data: old }));
  await world.settle(true);
  world.at += 23 * hourMs;
  await world.settle(true);
  assert.deepEqual(world.stages, ["Steady", "Announced"]);
  world.at += hourMs;
  await world.settle(true);
  assert.deepEqual(world.stages, ["Steady", "Announced", "Succeeded"]);
});

test("an operator that comes back when the CA is about to end, or has ended, has valid certificates made at once", async () => {
  for (const left of [30 * 60_000, -24 * hourMs]) {
    const world = new World();
    await world.settle(false);
    world.at = begun + caLifeMs - left;
    for (let i = 0; i < 4; i++) {
      world.restart();
      assert.equal(await world.pass(), undefined);
    }
    assert.equal(world.stages.at(-1), "Succeeded");
    for (const leaf of world.kube.all(resources.secrets).filter(({ metadata }) => metadata.namespace === "ns"))
      assert.ok(new X509Certificate(text(leaf, "tls.crt")).validToDate.getTime() > world.at + 23 * hourMs);
  }
});

test("a leaf that is signed at the last moment of its CA's time lives as long as any", async () => {
  const world = new World();
  await world.settle(false);
  world.at = due + 30 * 24 * hourMs;
  world.kube.remove(resources.secrets, { namespace: "ns", name: "moe-gateway-tls" });
  world.restart();
  await world.pass();
  const leaf = await world.kube.get(resources.secrets, { namespace: "ns", name: "moe-gateway-tls" });
  assert.ok(new X509Certificate(text(leaf, "tls.crt")).validToDate.getTime() >= world.at + 23 * hourMs);
});
