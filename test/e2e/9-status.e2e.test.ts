// The commands that look at a running deployment: status, doctor, top, experts, logs and bundle; and where the keys of its
// certificates are.
import assert from "node:assert/strict";
import { createPrivateKey, createPublicKey, X509Certificate } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { kubectlOf, type Target, workerPods } from "../kit/deployment/product.ts";
import { execOk, until } from "../kit/processes/process.ts";
import { explainFailures } from "./diagnose.ts";
import { enodia } from "./steps.ts";
import { type Deployed, deploy, openWorld, remove, smolMoe } from "./world.ts";

let target: Target;
let moe: Deployed;

explainFailures(() => moe);
before(async () => {
  target = await openWorld();
  moe = await deploy(target, "e2e-status", smolMoe("smol"));
});
after(async () => {
  if (moe) await remove(moe);
});

test("enodia status shows every rank with its memory", async () => {
  const json = JSON.parse(await enodia(moe, "status", "smol", "-o", "json"));
  const [{ ranks }] = json.deployments;
  assert.equal(ranks.length, 3);
  for (const rank of ranks) assert.ok(rank.hostedBytes > 0 && rank.memoryBytes > 0, JSON.stringify(rank));
  assert.match(await enodia(moe, "status", "smol"), /RANK\s+POD/);
});

/** A kubelet says it of every probe that fails before a process is ready. */
const beforeReady = "Unhealthy";

test("a healthy start leaves no warning", async () => {
  const events = await moe.kubectl.list("events");
  const warnings = events.filter(({ type, reason }) => type === "Warning" && reason !== beforeReady);
  assert.deepEqual(
    warnings.map(({ involvedObject, reason, message }) => `${involvedObject.name}: ${reason}: ${message}`),
    [],
  );
});

test("enodia status finds nothing urgent in a deployment that serves", async () => {
  const urgent = JSON.parse(await enodia(moe, "status", "smol", "-o", "json")).findings.filter(({ severity }: any) => severity !== "info");
  assert.deepEqual(urgent, []);
});

/** Planted faults -> what of the spec is wrong, and what `enodia status NAME` says first. */
const faults: Readonly<Record<string, { readonly spec: object; readonly code: string; readonly why: RegExp }>> = {
  "bad-spec": { spec: { podTemplate: { spec: { hostNetwork: true } } }, code: "FieldNotSupported", why: /hostNetwork/ },
  "no-claim": { spec: { model: { uri: "pvc://nowhere/x" } }, code: "ClaimNotFound", why: /pvc:\/\/nowhere\/x/ },
  "no-model": { spec: { model: { uri: "pvc://models/nowhere" } }, code: "ModelNotFound", why: /nowhere: no such folder/ },
  "no-image": { spec: { runtimeImage: { image: "enodia/runtime:nowhere" } }, code: "ImageNotPulled", why: /nowhere/ },
  "too-large": { spec: { podTemplate: asking("900Gi") }, code: "Unscheduled", why: /Insufficient memory/ },
};

function asking(memory: string): object {
  return { spec: { containers: [{ name: "runtime", resources: { requests: { memory } } }] } };
}

test("enodia status finds each planted fault by one command", { timeout: 300_000 }, async () => {
  const names = Object.keys(faults);
  try {
    for (const [name, { spec }] of Object.entries(faults)) await moe.kubectl.apply(smolMoe(name, { replicas: 1, ...spec }));
    for (const [name, { code, why }] of Object.entries(faults)) {
      const first = await until(
        `status to say of ${name}: ${code}, ${why}`,
        async () => {
          const [found] = JSON.parse(await enodia(moe, "status", name, "-o", "json")).findings;
          return found?.code === code && why.test(found.why) ? found : undefined; // the last words of a restart are not always kept
        },
        { timeoutMs: 120_000 },
      );
      assert.equal(first.severity, "critical", "nothing of it serves");
    }
  } finally {
    await moe.kubectl.run(["delete", "moed", ...names, "--ignore-not-found", "--cascade=foreground"]);
  }
});

test("enodia doctor finds nothing that fails, and the operator leads with all its rights", async () => {
  const text = await enodia(moe, "doctor"); // exits with 1 where something fails
  for (const check of ["leader", "the operator's rights", "CRDs", "certificates", "clocks"])
    assert.match(text, new RegExp(`^ok +${check} `, "m"), text);
});

test("enodia top has the figures of every rank, and experts the whole plan", async () => {
  const [{ ranks }] = JSON.parse(await enodia(moe, "top", "smol", "-o", "json"));
  assert.equal(ranks.length, 3);
  for (const rank of ranks) assert.ok(rank.answers && rank.experts > 0 && rank.memoryBytes > 0, JSON.stringify(rank));
  const map = JSON.parse(await enodia(moe, "experts", "smol", "-o", "json"));
  assert.equal(map.rows.length, 3);
  for (let expert = 0; expert < map.experts; expert += 1) {
    const whole = map.rows.reduce((sum: number, { weights }: any) => sum + weights[expert], 0);
    assert.ok(Math.abs(whole - 1) < 0.01, `expert ${expert}: ${whole}`);
  }
});

test("enodia logs finds a request by its id, and bundle has the logs of all pods", async () => {
  const id = "request-of-9-status";
  const body = JSON.stringify({ model: "smol", messages: [{ role: "user", content: "Hello" }], max_tokens: 2 });
  const headers = { "content-type": "application/json", "x-request-id": id };
  const response = await fetch(`${await moe.url()}/v1/chat/completions`, { method: "POST", headers, body });
  assert.equal(response.status, 200, await response.text());
  const lines = await until("the request to be logged", async () => (await enodia(moe, "logs", "smol", "--request", id)) || undefined, {
    timeoutMs: 30_000,
  });
  assert.match(lines, /request ended.*requestId=request-of-9-status/);
  const folder = mkdtempSync(join(tmpdir(), "enodia-bundle-"));
  try {
    const file = join(folder, "smol.tar.gz");
    await enodia(moe, "bundle", "smol", "-o", file);
    const names = (await execOk("tar", ["-tzf", file])).split("\n");
    for (const { metadata } of await moe.kubectl.list("pods", "enodia.dev/deployment=smol"))
      assert.ok(names.includes(`enodia-smol/logs/${metadata.name}.log`), names.join("\n"));
  } finally {
    rmSync(folder, { recursive: true });
  }
});

/** The public key of each private key in a Secret, by its entry. */
function keysIn(secret: any): { readonly entry: string; readonly spki: string }[] {
  return Object.entries((secret.data ?? {}) as Record<string, string>).flatMap(([entry, text]) => {
    const pem = Buffer.from(text, "base64").toString();
    if (!pem.includes("PRIVATE KEY")) return [];
    return [{ entry: `${secret.metadata.name} ${entry}`, spki: spkiOf(createPublicKey(createPrivateKey(pem))) }];
  });
}

const spkiOf = (key: ReturnType<typeof createPublicKey>): string => key.export({ type: "spki", format: "der" }).toString("base64");

const secretsWithKeys = async (): Promise<any[]> =>
  JSON.parse(await moe.kubectl.run(["get", "secrets", "-o", "json"])).items.filter((secret: any) => keysIn(secret).length > 0);

/** The leaves of three ranks and the gateways, once no other Secret has a key: a deleted pod's goes some time after it. */
function leavesAlone(): Promise<readonly any[]> {
  const look = async () => {
    const ranks = await workerPods(moe.kubectl, moe.name);
    assert.equal(ranks.length, 3);
    const names = [`${moe.name}-gateway`, ...ranks.map(({ metadata }) => metadata.name)].map((name) => `${name}-tls`);
    const found = await secretsWithKeys();
    assert.deepEqual(found.map(({ metadata }) => metadata.name).sort(), names.sort());
    return found;
  };
  return until("no Secret to have a key but the leaves", look, { timeoutMs: 30_000 });
}

test("no Secret beside the pods has the key of their CA, which is in the operator's namespace", async () => {
  const { uid } = (await moe.kubectl.get("moed", moe.name)).metadata;
  const all: readonly any[] = await kubectlOf(target, "enodia-system").list("secrets", `enodia.dev/authority-uid=${uid}`);
  assert.equal(all.length, 1);
  const ca = all[0];
  const certificate = new X509Certificate(Buffer.from(ca.data["ca.crt"], "base64"));
  assert.ok(keysIn(ca).some(({ spki }) => spki === spkiOf(certificate.publicKey)));
  const found = (await secretsWithKeys()).flatMap(keysIn).filter(({ spki }) => spki === spkiOf(certificate.publicKey));
  assert.deepEqual(found, []);
  const leaves = await leavesAlone();
  for (const { data } of leaves) {
    assert.equal(new X509Certificate(Buffer.from(data["ca.crt"], "base64")).fingerprint256, certificate.fingerprint256);
    assert.ok(new X509Certificate(Buffer.from(data["tls.crt"], "base64")).checkIssued(certificate));
  }
  assert.equal(leaves.flatMap(keysIn).length, leaves.length, "one key in each");
});
