import assert from "node:assert/strict";
import { test } from "node:test";
import { deployment, settings } from "../../../test/kit/deployment/deployment.ts";
import { resources } from "../../kube/kube.ts";
import { absentObjects, appliedObjects } from "./index.ts";

const on = { ...settings, networkPolicies: { operatorNamespace: "enodia-system" } };
const policies = (spec: object = {}, more: object = {}): any[] =>
  appliedObjects({ deployment: deployment(spec), settings: { ...on, ...more } })
    .filter(({ resource }) => resource === resources.networkPolicies)
    .map(({ object }) => object);
const portsOf = (rules: any[]) => rules.map(({ ports }) => ports?.map(({ port }: any) => port));
const nats = (spec: object, more: object = {}) => policies(spec, more)[0].spec.egress.slice(2);

test("ranks are reached by ranks, gateways and the operator, gateways by clients and the operator, and neither goes elsewhere", () => {
  const [workers, gateways] = policies();
  const operator = {
    namespaceSelector: { matchLabels: { "kubernetes.io/metadata.name": "enodia-system" } },
    podSelector: { matchLabels: { "app.kubernetes.io/component": "operator" } },
  };
  const of = (component: string) => ({
    podSelector: { matchLabels: { "enodia.dev/deployment": "moe", "enodia.dev/component": component } },
  });
  assert.deepEqual([workers.metadata.name, gateways.metadata.name], ["moe-workers", "moe-gateway"]);
  assert.deepEqual(workers.spec.podSelector, of("worker").podSelector);
  assert.deepEqual(workers.spec.ingress[0].from, [of("worker"), of("gateway"), operator]);
  assert.deepEqual(workers.spec.ingress[1].from, [of("worker")], "engines' connections are for engines");
  assert.deepEqual(portsOf(workers.spec.ingress), [[9440], [9441], [9464, 9465]]);
  assert.deepEqual(workers.spec.egress[0].to, [of("worker")]);
  assert.deepEqual(portsOf(workers.spec.egress), [[9440, 9441], [53, 53, 5353, 5353], [4222]]);
  assert.deepEqual(gateways.spec.ingress[1].from, [operator]);
  assert.deepEqual(portsOf(gateways.spec.ingress), [[8000], [9440], [9464, 9465]]);
  assert.deepEqual(portsOf(gateways.spec.egress), [[9440], [53, 53, 5353, 5353]]);
  for (const { spec } of [workers, gateways]) assert.deepEqual(spec.policyTypes, ["Ingress", "Egress"]);
});

test("NATS and traces are let through to the namespace of a Service, or to the port of any other host", () => {
  const namespace = (name: string) => [{ to: [{ namespaceSelector: { matchLabels: { "kubernetes.io/metadata.name": name } } }] }];
  const url = (text: string) => ({ telemetry: { nats: { url: text } } });
  assert.deepEqual(nats({}, { natsUrl: "nats://enodia-nats.enodia-system.svc:4222" }), namespace("enodia-system"));
  assert.deepEqual(nats(url("tls://nats.messaging.svc.cluster.local:4222")), namespace("messaging"));
  assert.deepEqual(portsOf(nats(url("nats://nats.example.com:4333"))), [[4333]]);
  assert.deepEqual(portsOf(nats(url("nats://nats.messaging"))), [[4222]]);
  assert.deepEqual(portsOf(nats({}, { natsUrl: undefined, otlpEndpoint: "https://traces.example.com" })), [[443]]);
  assert.deepEqual(nats({}, { natsUrl: undefined }), []);
});

test("gateways reach the issuer of tokens, or the place of its keys", () => {
  const issuer = (jwt: object) => policies({ gateway: { jwt: { audience: "moe", ...jwt } } })[1].spec.egress.slice(2);
  assert.deepEqual(portsOf(issuer({ issuer: "https://id.example.com/main" })), [[443]]);
  assert.deepEqual(portsOf(issuer({ issuer: "https://id.example.com", jwksUri: "https://keys.example.com:8443/k" })), [[8443]]);
  const inside = [{ to: [{ namespaceSelector: { matchLabels: { "kubernetes.io/metadata.name": "login" } } }] }];
  assert.deepEqual(issuer({ issuer: "https://id.login.svc/main" }), inside);
});

test("switched off, there are none, and those that were made are to go", () => {
  const context = (networkPolicies: typeof on.networkPolicies | undefined) => ({
    deployment: deployment(),
    settings: { ...settings, networkPolicies },
  });
  const absent = (policies: typeof on.networkPolicies | undefined) =>
    absentObjects(context(policies)).filter(({ resource }) => resource === resources.networkPolicies);
  assert.equal(appliedObjects(context(undefined)).filter(({ resource }) => resource === resources.networkPolicies).length, 0);
  assert.deepEqual(
    absent(undefined).map(({ resource, name }) => [resource.kind, name]),
    [
      ["NetworkPolicy", "moe-workers"],
      ["NetworkPolicy", "moe-gateway"],
      ["NetworkPolicy", "moe-downloader"],
      ["NetworkPolicy", "moe-weight-server"],
    ],
  );
  // One of an earlier model that was downloaded goes too.
  assert.deepEqual(
    absent(on.networkPolicies).map(({ name }) => name),
    ["moe-downloader", "moe-weight-server"],
  );
});
