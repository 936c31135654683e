// Routes of the Gateway API and pools of its inference extension on a real API server, with the CRDs as their modules have them, installed
// while the operator runs. No Gateway runs here: the test writes what a controller would.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { parse, parseAllDocuments } from "yaml";
import { ports } from "../../crds/common.ts";
import { poolMetrics } from "../../runtime/gateway/api/app.ts";
import { down } from "../../test/cluster/cluster.ts";
import { type ControlPlane, controlPlane, root } from "../../test/integration/control-plane.ts";
import { startDeploymentPlane } from "../../test/integration/deployment-plane.ts";
import { type GoModule, moduleFolder } from "../../test/kit/processes/go-module.ts";
import { until as poll } from "../../test/kit/processes/process.ts";
import { type Kube, type KubeObject, type Resource, resources } from "../kube/kube.ts";
import { rulesOf } from "../rbac.ts";

const name = "routes-int";
const namespace = "serving";
const system = "routes-system";
const person = { manager: "a-person" };
const gatewayApi: GoModule = { module: "sigs.k8s.io/gateway-api@v1.4.0", sum: "h1:ZwlNM6zOHq0h3WUX2gfByPs2yAEsy/EenYJB78jpQfQ=" };
const inference: GoModule = {
  module: "sigs.k8s.io/gateway-api-inference-extension@v1.1.0",
  sum: "h1:MqRYk+3LNUWB0MbTgTZVhmJGNDTvm8l3ze4MOlzR7MU=",
};
/** Of llm-d-router v0.10.0, whose module is not read here: flags that are not deprecated, which it refuses, types, fields. */
const pickerFlags = ["pool-name", "config-file", "metrics-endpoint-auth", "tracing"];
const pickerPlugins = ["queue-scorer", "kv-cache-utilization-scorer", "metrics-data-source", "core-metrics-extractor"];
const pickerSpecs = ["queuedRequestsSpec", "runningRequestsSpec", "kvUsageSpec"];
let kube: Kube;
let apply: ControlPlane["apply"];
let kubectl: ControlPlane["kubectl"];
let stop = async (): Promise<void> => {};

before(
  async () => {
    ({ kube, apply, kubectl } = await controlPlane(name, 0));
    for (const one of [namespace, system]) await apply({ apiVersion: "v1", kind: "Namespace", metadata: { name: one } });
    stop = await startDeploymentPlane(kube, namespace, { system });
  },
  { timeout: 600_000 },
);
after(async () => {
  await stop();
  await down(name);
});

const until = (what: string, holds: () => Promise<boolean>): Promise<true> =>
  poll(what, async () => (await holds()) || undefined, { timeoutMs: 120_000, everyMs: 100 });
const documents = (file: string): KubeObject[] => parseAllDocuments(readFileSync(file, "utf8")).map((one) => one.toJS());
const sample = (file: string): KubeObject[] =>
  documents(join(root, "crds/samples", file)).map((one) => ({ ...one, metadata: { ...one.metadata, namespace } }));
/** Installs the CRDs of files of a module, and waits for them. */
async function install(of: GoModule, folder: string, files: readonly string[]): Promise<void> {
  const found = await moduleFolder(of);
  for (const file of files) await kubectl("apply", "--server-side", "-f", join(found, folder, file));
  const crds = files.map((file) => file.replace(/^(.*)_(.*)\.yaml$/, "crd/$2.$1"));
  await kubectl("wait", "--for=condition=Established", ...crds, "--timeout=60s");
}

const ref = { namespace, name: "chat" };
const routes = resources.httpRoutes;
const route = async (): Promise<any> => kube.get(routes, ref);
const deployment = async (): Promise<any> => kube.get(resources.moeDeployments, ref);
const condition = async (type: string): Promise<any> => (await deployment())?.status?.conditions?.find((one: any) => one.type === type);
const says = (reason: string) => async () => (await condition("GatewayRouted"))?.reason === reason;
const ask = (httpRoute: unknown) => kube.patch(resources.moeDeployments, ref, { spec: { gateway: { httpRoute } } }, person);

/** Writes what the controller of the Gateway `public` says of the route. */
async function answer(...said: readonly { readonly type: string; readonly status: string; readonly reason: string }[]): Promise<void> {
  const live = await route();
  const { generation } = live.metadata;
  const lastTransitionTime = new Date().toISOString();
  const conditions = said.map((one) => ({ ...one, message: "by the test", observedGeneration: generation, lastTransitionTime }));
  const parents = [{ parentRef: live.spec.parentRefs[0], controllerName: "example.com/gateway", conditions }];
  await kube.updateStatus(routes, { ...live, status: { parents } }, { manager: "a-controller" });
}

test("without the Gateway API everything else is made, and the condition says what to install", { timeout: 180_000 }, async () => {
  const [chat] = sample("http-route.yaml");
  const secret = { apiVersion: "v1", kind: "Secret", metadata: { name: "chat-tls", namespace }, type: "Opaque" };
  await apply(secret, chat as KubeObject);
  await until("a word", says("GatewayApiAbsent"));
  const said = await condition("GatewayRouted");
  assert.equal(said.status, "False");
  assert.match(said.message, /^spec\.gateway\.httpRoute: the cluster has no HTTPRoutes of gateway\.networking\.k8s\.io\/v1: install/);
  await until("the spec is in effect", async () => (await condition("SpecAccepted"))?.status === "True");
  const gateways = { namespace, name: "chat-gateway" };
  await until("the gateways", async () => (await kube.get(resources.deployments, gateways)) !== undefined);
});

test("it is found once it is installed, without a restart, and the Gateway's own words are told", { timeout: 240_000 }, async () => {
  const files = ["httproutes", "backendtlspolicies"].map((plural) => `gateway.networking.k8s.io_${plural}.yaml`);
  await install(gatewayApi, "config/crd/standard", files);
  await until("the route", async () => (await route()) !== undefined);
  const { metadata, spec } = await route();
  assert.equal(metadata.ownerReferences[0].kind, "MoEDeployment");
  const { parentRefs, hostnames, rules } = spec;
  assert.deepEqual([parentRefs[0].kind, parentRefs[0].namespace, hostnames], ["Gateway", "gateways", ["llm.example.com"]]);
  assert.deepEqual(rules[0].timeouts, { request: "0s", backendRequest: "0s" });
  assert.equal(rules[0].backendRefs[0].kind, "Service", "as the server has it by default");
  await until("nobody has spoken", says("GatewayUnanswered"));
  await answer({ type: "Accepted", status: "False", reason: "NotAllowedByListeners" });
  await until("refused", says("NotAllowedByListeners"));
  assert.match((await condition("GatewayRouted")).message, /Gateway gateways\/public, listener https: Accepted=False, .*: by the test/);
  await answer(
    { type: "Accepted", status: "True", reason: "Accepted" },
    { type: "ResolvedRefs", status: "False", reason: "BackendNotFound" },
  );
  await until("half of it", says("BackendNotFound"));
  await answer({ type: "Accepted", status: "True", reason: "Accepted" }, { type: "ResolvedRefs", status: "True", reason: "ResolvedRefs" });
  await until("taken", says("Accepted"));
  assert.equal((await condition("GatewayRouted")).status, "True");
  await apply(...sample("http-route.yaml").slice(1)); // the way from the Gateway to the pods
});

test("the operator's own rights are enough for its routes", { timeout: 120_000 }, async () => {
  const rules = rulesOf("watched").map(({ apiGroups, resources: granted, resourceNames, verbs }) => {
    return { apiGroups, resources: granted, verbs, ...(resourceNames ? { resourceNames } : {}) };
  });
  const [apiGroup, who] = ["rbac.authorization.k8s.io", "the-operator"];
  const role = { apiVersion: `${apiGroup}/v1`, kind: "Role", metadata: { name: who, namespace }, rules };
  const roleRef = { apiGroup, kind: "Role", name: who };
  const subjects = [{ apiGroup, kind: "User", name: who }];
  await apply(role, { ...role, rules: undefined, kind: "RoleBinding", roleRef, subjects });
  const may = (verb: string, plural: string) =>
    kubectl("auth", "can-i", verb, `${plural}.gateway.networking.k8s.io`, `--as=${who}`, "-n", namespace);
  for (const verb of ["get", "list", "watch", "create", "patch", "delete"])
    assert.equal((await may(verb, "httproutes")).trim(), "yes", verb);
  await assert.rejects(may("get", "backendtlspolicies"), "and for nothing else of that API");
});

test("another spec is another route, of which the former word is none", { timeout: 120_000 }, async () => {
  await ask({ pathPrefix: null, modelHeader: "X-Gateway-Model-Name", timeouts: { request: "15m" } });
  await until("the change", async () => (await route()).spec.rules[0].matches[0].path.value === "/v1");
  const [rule] = (await route()).spec.rules;
  assert.deepEqual(rule.matches[0].headers, [{ type: "Exact", name: "X-Gateway-Model-Name", value: "chat" }]);
  assert.deepEqual([rule.filters, rule.timeouts], [undefined, { request: "15m", backendRequest: "0s" }]);
  await until("not judged", says("GatewayUndecided"));
  await assert.rejects(ask({ timeouts: { request: "1m", backendRequest: "2m" } }), /backendRequest must not be above request/);
});

test("what is deleted or unmade by another hand is made again, and a field that another manages is named", {
  timeout: 180_000,
}, async () => {
  const before = (await route()).metadata.uid;
  await kube.delete(routes, ref);
  await until("another one", async () => ((await route())?.metadata.uid ?? before) !== before);
  await kube.patch(routes, ref, { spec: { hostnames: null } }, person);
  await until("the hostname is back", async () => (await route()).spec.hostnames?.[0] === "llm.example.com");
  const taken = { apiVersion: routes.apiVersion, kind: routes.kind, metadata: ref, spec: { hostnames: ["mine.example.com"] } };
  await kube.apply(routes, taken, { ...person, force: true });
  await until("it is told", async () => (await condition("FieldConflict"))?.status === "True");
  assert.match((await condition("FieldConflict")).message, /HTTPRoute chat.*hostnames/);
  assert.equal((await route()).spec.hostnames[0], "mine.example.com", "nobody is overruled");
  await kube.apply(routes, { ...taken, spec: {} }, person);
  await until("it is ours again", async () => (await route()).spec.hostnames?.[0] === "llm.example.com");
});

test("one of the same name that is somebody else's is not touched; without the field ours goes", { timeout: 120_000 }, async () => {
  await ask(null);
  await until("no route", async () => (await route()) === undefined);
  await until("nothing is said", async () => (await condition("GatewayRouted")) === undefined);
  await kube.create(routes, { apiVersion: routes.apiVersion, kind: routes.kind, metadata: ref, spec: { hostnames: ["a.b"] } }, person);
  await ask({ parentRefs: [{ name: "public" }] });
  await until("refused", async () => (await condition("SpecAccepted"))?.reason === "ObjectRefused");
  assert.match((await condition("SpecAccepted")).message, /HTTPRoute chat exists and does not belong to this MoEDeployment/);
  assert.deepEqual((await route()).spec.hostnames, ["a.b"]);
  await ask(null);
  await until("in effect again", async () => (await condition("SpecAccepted"))?.status === "True");
  assert.ok(await route(), "theirs stays");
});

test("the sample of an InferencePool is taken, and its picker reads what gateways tell", { timeout: 180_000 }, async () => {
  await install(inference, "config/crd/bases", ["inference.networking.k8s.io_inferencepools.yaml"]);
  const objects = sample("inference-pool.yaml");
  await apply(...objects); // kubectl has the server refuse unknown fields
  const pools: Resource = {
    apiVersion: "inference.networking.k8s.io/v1",
    kind: "InferencePool",
    plural: "inferencepools",
    namespaced: true,
  };
  const pool = (await kube.get(pools, ref)) as any;
  const gateways = (await kube.get(resources.deployments, { namespace, name: "chat-gateway" })) as any;
  for (const [label, value] of Object.entries(pool.spec.selector.matchLabels))
    assert.equal(gateways.spec.template.metadata.labels[label], value, label);
  assert.deepEqual(pool.spec.targetPorts, [{ number: ports.http }]);
  const service = objects.find(({ kind, metadata }) => kind === "Service" && metadata.name === pool.spec.endpointPickerRef.name) as any;
  assert.equal(service.spec.ports[0].port, pool.spec.endpointPickerRef.port.number);

  const picker = objects.find(({ kind }) => kind === "Deployment") as any;
  const flags = new Map<string, string>(picker.spec.template.spec.containers[0].args.map((arg: string) => arg.slice(2).split("=")));
  for (const flag of flags.keys()) assert.ok(pickerFlags.includes(flag), flag);
  const told = poolMetrics({ model: "chat", waiting: 1, running: 2, kvUse: 0.5 });
  const config = parse((objects.find(({ kind }) => kind === "ConfigMap") as any).data["plugins.yaml"]);
  assert.equal(config.apiVersion, "llm-d.ai/v1alpha1");
  assert.deepEqual(
    config.plugins.map(({ type }: any) => type),
    pickerPlugins,
  );
  const [engine] = config.plugins.at(-1).parameters.engineConfigs;
  for (const spec of pickerSpecs) assert.ok(told.includes(`\n${engine[spec]}{`), spec);
});
