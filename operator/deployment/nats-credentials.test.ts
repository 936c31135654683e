import assert from "node:assert/strict";
import { test } from "node:test";
import { FakeKube } from "../../test/contract/fake-kube.ts";
import { resources } from "../kube/kube.ts";
import { natsCredentials } from "./nats-credentials.ts";

const ref = { namespace: "ns", name: "nats-creds" };
const base64 = (text: string) => Buffer.from(text).toString("base64");

test("user.creds comes before token, a changed Secret is read anew, and what is missing is named", async () => {
  const kube = new FakeKube();
  await assert.rejects(natsCredentials(kube, ref), { code: "CredentialsNotFound", message: /Secret nats-creds is missing/ });
  const secret = { apiVersion: "v1", kind: "Secret", metadata: { ...ref }, data: { user: base64("u"), password: base64("p") } };
  await kube.create(resources.secrets, secret, { manager: "user" });
  await assert.rejects(natsCredentials(kube, ref), { code: "CredentialsNotFound", message: /has neither user.creds nor token/ });
  kube.mutate(resources.secrets, ref, (one) => Object.assign(one.data, { token: base64("t") }));
  assert.equal(await natsCredentials(kube, ref), "t");
  kube.mutate(resources.secrets, ref, (one) => Object.assign(one.data, { "user.creds": base64("c") }));
  assert.equal(await natsCredentials(kube, ref), "c");
});
