// The weight server as it is rendered: what its process reads is what the spec says, it keeps to the restricted level, and nobody reaches it who has
// no business there.
import assert from "node:assert/strict";
import { test } from "node:test";
import { parseWeightServerConfig } from "../../../runtime/config.ts";
import { deployment, settings } from "../../../test/kit/deployment/deployment.ts";
import { resources } from "../../kube/kube.ts";
import { absentObjects, appliedObjects } from "./index.ts";
import { workerPod, workerTemplate } from "./worker-pod.ts";

const on = { ...settings, networkPolicies: { operatorNamespace: "enodia-system" } };
const context = (model: object, more: object = {}) => ({
  deployment: deployment({ model: model as never, ...more }),
  settings: on,
  weightServer: { replicas: 1 as const },
});
const inClaim = { uri: "pvc://models/moe" };
const ephemeral = {
  uri: "hf://org/name",
  secretRef: { name: "token" },
  cache: { ephemeral: { sizeLimit: "3Gi" } },
  resources: { requests: { cpu: "2" }, limits: { memory: "4Gi" } },
};
const of = (at: ReturnType<typeof context>, kind: string, name: string): any =>
  appliedObjects(at).find(({ object }) => object.kind === kind && object.metadata.name === name)?.object;
const podOf = (at: ReturnType<typeof context>): any => of(at, "Deployment", "moe-weight-server").spec.template.spec;
/** The variables that are texts; those of the pod itself and of the ConfigMap as a pod would have them. */
const envOf = (pod: any): Record<string, string> =>
  Object.fromEntries(
    pod.containers[0].env.flatMap(({ name, value, valueFrom }: any) => [[name, value ?? (valueFrom.fieldRef ? "pod-uid" : undefined)]]),
  ); // prettier-ignore

test("its process reads what the spec says, of a claim and of a disk of its own", () => {
  const mounted = parseWeightServerConfig(envOf(podOf(context(inClaim))));
  assert.deepEqual([mounted.target, mounted.sizeLimitBytes, mounted.secretDir], ["/models/moe", undefined, undefined]);
  const own = parseWeightServerConfig(envOf(podOf(context(ephemeral))));
  assert.match(own.target, /^\/models\/org-name-[0-9a-f]{16}$/);
  assert.deepEqual(
    [own.uri, own.sizeLimitBytes, own.secretDir, own.grpcPort],
    ["hf://org/name", 3 * 2 ** 30, "/etc/enodia/model-secret", 9440],
  );
  assert.deepEqual(podOf(context(ephemeral)).containers[0].resources, ephemeral.resources);
  const rank = workerPod(context(ephemeral), workerTemplate(context(ephemeral)), 0, "x") as any;
  assert.equal(envOf(rank.spec).ENODIA_MODEL_PATH, own.target, "ranks open the folder that the weight server serves");
});

test("it keeps to the restricted level, one at a time, and writes nowhere but on its own disk", () => {
  for (const model of [inClaim, ephemeral]) {
    const pod = podOf(context(model));
    const [container] = pod.containers;
    assert.equal(pod.automountServiceAccountToken, false);
    assert.equal(pod.securityContext.runAsNonRoot, true);
    assert.deepEqual(container.securityContext.capabilities, { drop: ["ALL"] });
    assert.equal(container.securityContext.readOnlyRootFilesystem, true);
    const mount = container.volumeMounts.find(({ name }: any) => name === "models");
    assert.equal(mount.readOnly === true, model === inClaim);
    assert.equal(of(context(model), "Deployment", "moe-weight-server").spec.strategy.rollingUpdate.maxSurge, 0);
  }
});

test("ranks alone ask it for bytes, and it goes nowhere but to the source of what it downloads", () => {
  const policy = (model: object) => of(context(model), "NetworkPolicy", "moe-weight-server").spec;
  const from = policy(inClaim).ingress.find(({ ports }: any) => ports[0].port === 9440).from;
  assert.deepEqual(
    from.map(({ podSelector }: any) => podSelector.matchLabels["enodia.dev/component"]),
    ["worker"],
  );
  assert.deepEqual(policy(inClaim).egress, []);
  const [{ to: anywhere }, dns] = policy(ephemeral).egress;
  assert.deepEqual([anywhere[0], dns.ports[0].port], [{ namespaceSelector: {} }, 53]);
  const out = of(context(inClaim), "NetworkPolicy", "moe-workers").spec.egress;
  assert.ok(out.some(({ to }: any) => to?.[0].podSelector?.matchLabels["enodia.dev/component"] === "weight-server"));
});

test("what is to have no pod has none, whoever scales it; else their number stays", () => {
  const takes = (replicas: 0 | 1) =>
    appliedObjects({ ...context(inClaim), weightServer: { replicas } }).find(
      ({ object }) => object.metadata.name === "moe-weight-server" && object.kind === "Deployment",
    )?.takes;
  assert.deepEqual([takes(0), takes(1)], [[".spec.replicas"], undefined]);
});

test("ranks that mount the model need none of it, and what was made goes", () => {
  const { weightServer: _, ...mounts } = context(inClaim);
  assert.equal(
    appliedObjects(mounts).some(({ object }) => object.metadata.name === "moe-weight-server"),
    false,
  ); // prettier-ignore
  const gone = absentObjects(mounts).filter(({ name }) => name === "moe-weight-server");
  assert.deepEqual(
    gone.map(({ resource }) => resource),
    [resources.networkPolicies, resources.services, resources.deployments],
  ); // prettier-ignore
  const hashes = [workerTemplate(mounts), workerTemplate(context(inClaim))].map(({ hash }) => hash);
  assert.notEqual(hashes[0], hashes[1], "ranks with a weight server are another template");
});
