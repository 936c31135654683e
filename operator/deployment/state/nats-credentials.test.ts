import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { deployment, settings } from "../../../test/kit/deployment/deployment.ts";
import { FakeKube } from "../../../test/kit/kube/fake-kube.ts";
import { resources } from "../../kube/kube.ts";
import { NatsCredentials } from "./nats-credentials.ts";

const ref = { namespace: "ns", name: "nats-creds" };
const named = deployment({ telemetry: { nats: { credentialsSecretRef: { name: ref.name } } } }).spec;
const base64 = (text: string) => Buffer.from(text).toString("base64");
const secret = (type: string, data: Record<string, string>) => {
  const encoded = Object.fromEntries(Object.entries(data).map(([entry, text]) => [entry, base64(text)]));
  return { apiVersion: "v1", kind: "Secret", metadata: { ...ref }, type, data: encoded };
};

test("user.creds comes before token, a changed Secret is read anew, and what is missing is named", async () => {
  const kube = new FakeKube();
  await assert.rejects(new NatsCredentials(kube, settings).entries(ref, named, undefined), {
    code: "CredentialsNotFound",
    message: /Secret nats-creds is missing/,
  });
  await kube.create(resources.secrets, secret("enodia.dev/nats-credentials", { user: "u", password: "p" }), { manager: "user" });
  await assert.rejects(new NatsCredentials(kube, settings).entries(ref, named, undefined), {
    code: "CredentialsNotFound",
    message: /has neither user.creds nor token/,
  });
  kube.mutate(resources.secrets, ref, (one) => Object.assign(one.data, { token: base64("t") }));
  assert.deepEqual(await new NatsCredentials(kube, settings).entries(ref, named, undefined), { token: "t" });
  kube.mutate(resources.secrets, ref, (one) => Object.assign(one.data, { "user.creds": base64("c"), "ca.crt": base64("PEM") }));
  assert.deepEqual(await new NatsCredentials(kube, settings).access(ref), { credentials: "c", ca: "PEM" });
});

test("a Secret of another type is not read, whatever its keys are called", async () => {
  for (const type of ["Opaque", "kubernetes.io/service-account-token"]) {
    const kube = new FakeKube();
    await kube.create(resources.secrets, secret(type, { token: "another's" }), { manager: "user" });
    await assert.rejects(new NatsCredentials(kube, settings).entries(ref, named, undefined), {
      code: "CredentialsRefused",
      message:
        /Secret nats-creds is not of type enodia.dev\/nats-credentials, and is not read; make it with: kubectl create secret generic/,
    });
  }
});

test("the operator's own credentials are the files of its folder", async () => {
  const folder = mkdtempSync(join(tmpdir(), "enodia-nats-"));
  try {
    const nats = new NatsCredentials(new FakeKube(), { ...settings, natsCreds: folder });
    await assert.rejects(nats.access("operator"), {
      code: "CredentialsNotFound",
      message: /ENODIA_NATS_CREDS: .* has neither user.creds nor token/,
    });
    writeFileSync(join(folder, "token"), "t");
    writeFileSync(join(folder, "tls.key"), "none of ours");
    assert.deepEqual(await nats.access("operator"), { credentials: "t" });
    assert.deepEqual(await nats.entries(ref, deployment().spec, undefined), {}, "and no rank gets them");
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
