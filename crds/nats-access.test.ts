import assert from "node:assert/strict";
import { test } from "node:test";
import { deployment } from "../test/kit/deployment/deployment.ts";
import { natsAccessOf, natsSourceOf } from "./nats-access.ts";

test("credentials without a CA are enough, a CA without credentials is not", () => {
  assert.deepEqual(natsAccessOf({ token: "t" }), { credentials: "t" });
  assert.deepEqual(natsAccessOf({ "user.creds": "", token: "t", "ca.crt": "PEM" }), { credentials: "t", ca: "PEM" });
  assert.equal(natsAccessOf({ "ca.crt": "PEM" }), undefined);
  assert.equal(natsAccessOf({ token: " \n" }), undefined);
});

test("the operator's credentials are never for a server that a spec names", () => {
  const source = (nats: object, own = true) => natsSourceOf(deployment({ telemetry: { nats } }).spec, own);
  const url = "nats://elsewhere:4222";
  assert.equal(source({}), "operator");
  assert.equal(source({}, false), undefined);
  assert.equal(source({ url }), undefined);
  assert.deepEqual(source({ url, credentialsSecretRef: { name: "creds" } }), { secret: "creds" });
  assert.deepEqual(source({ credentialsSecretRef: { name: "creds" } }), { secret: "creds" });
});
