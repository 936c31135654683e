import assert from "node:assert/strict";
import { test } from "node:test";
import { deployment } from "../test/kit/deployment/deployment.ts";
import { natsAccessOf, natsOf } from "./nats-access.ts";

test("credentials without a CA are enough, a CA without credentials is not", () => {
  assert.deepEqual(natsAccessOf({ token: "t" }), { credentials: "t" });
  assert.deepEqual(natsAccessOf({ "user.creds": "", token: "t", "ca.crt": "PEM" }), { credentials: "t", ca: "PEM" });
  assert.equal(natsAccessOf({ "ca.crt": "PEM" }), undefined);
  assert.equal(natsAccessOf({ token: " \n" }), undefined);
});

const url = "nats://elsewhere:4222";
const credentialsSecretRef = { name: "creds" };
const secret = { secret: "creds" };
const [open, issued] = [{ natsUrl: "nats://own:4222", natsCreds: undefined, natsSecrets: undefined }, { natsSecrets: "enodia-nats" }];
const cases: readonly (readonly [string, object, object, ReturnType<typeof natsOf>])[] = [
  ["no server", {}, { natsUrl: undefined }, undefined],
  ["an open server", {}, {}, { url: open.natsUrl, ranks: undefined, operator: undefined }],
  ["the chart's server", {}, issued, { url: open.natsUrl, ranks: "issued", operator: "operator" }],
  ["the chart's server with TLS", {}, { ...issued, natsCreds: "/ca" }, { url: open.natsUrl, ranks: "issued", operator: "operator" }],
  ["a foreign server of the operator's", {}, { natsCreds: "/creds" }, undefined],
  [
    "the same, with a Secret",
    { credentialsSecretRef },
    { natsCreds: "/creds" },
    { url: open.natsUrl, ranks: secret, operator: "operator" },
  ],
  ["the spec's server", { url }, issued, { url, ranks: undefined, operator: undefined }],
  ["the same, with a Secret", { url, credentialsSecretRef }, { natsCreds: "/creds" }, { url, ranks: secret, operator: secret }],
];
for (const [what, nats, own, wanted] of cases)
  test(`what is shown to ${what}; the operator's credentials are for no rank, and for no server that a spec names`, () =>
    assert.deepEqual(natsOf(deployment({ telemetry: { nats } }).spec, { ...open, ...own }), wanted));
