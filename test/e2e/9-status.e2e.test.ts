// `enodia status` of a running deployment, on a terminal and as JSON; and where the keys of its certificates are.
import assert from "node:assert/strict";
import { createPrivateKey, createPublicKey, X509Certificate } from "node:crypto";
import { after, before, test } from "node:test";
import { execOk } from "../harness/process.ts";
import { kubectlOf, root, type Target } from "../harness/product.ts";
import { explainFailures } from "./diagnose.ts";
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
  const args = ["operator/cli/main.ts", "status", "smol", "-n", moe.namespace, "--kubeconfig", target.kubeconfig ?? ""];
  const json = JSON.parse(await execOk(process.execPath, [...args, "--json"], { cwd: root })) as any[];
  assert.equal(json[0].ranks.length, 3);
  for (const rank of json[0].ranks) assert.ok(rank.hostedBytes > 0 && rank.memoryBytes > 0, JSON.stringify(rank));
  assert.match(await execOk(process.execPath, args, { cwd: root }), /RANK\s+POD/);
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

test("no Secret beside the pods has the key of their CA, which is in the operator's namespace", async () => {
  const { uid } = (await moe.kubectl.get("moed", moe.name)).metadata;
  const all: readonly any[] = await kubectlOf(target, "enodia-system").list("secrets", `enodia.dev/authority-uid=${uid}`);
  assert.equal(all.length, 1);
  const ca = all[0];
  const certificate = new X509Certificate(Buffer.from(ca.data["ca.crt"], "base64"));
  assert.ok(keysIn(ca).some(({ spki }) => spki === spkiOf(certificate.publicKey)));
  const secrets: any[] = JSON.parse(await moe.kubectl.run(["get", "secrets", "-o", "json"])).items;
  const leaves = secrets.filter(({ metadata }) => metadata.name.endsWith("-tls"));
  assert.equal(leaves.length, 4, "three ranks and the gateways");
  for (const { data } of leaves) {
    assert.equal(new X509Certificate(Buffer.from(data["ca.crt"], "base64")).fingerprint256, certificate.fingerprint256);
    assert.ok(new X509Certificate(Buffer.from(data["tls.crt"], "base64")).checkIssued(certificate));
  }
  const found = secrets.flatMap(keysIn).filter(({ spki }) => spki === spkiOf(certificate.publicKey));
  assert.deepEqual(found, []);
  assert.equal(secrets.flatMap(keysIn).length, 4, "one key for each leaf, and no other");
});
