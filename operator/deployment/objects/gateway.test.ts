// The gateway's pod has no claim with the model.
import assert from "node:assert/strict";
import { test } from "node:test";
import { deployment, settings } from "../../../test/kit/deployment/deployment.ts";
import { gatewayTemplate } from "./gateway.ts";
import { workerTemplate } from "./worker-pod.ts";

const context = { deployment: deployment(), settings };
const claims = ({ spec }: { spec: { volumes: readonly object[] } }) => spec.volumes.filter((volume) => "persistentVolumeClaim" in volume);
const mounted = ({ spec }: { spec: { containers: readonly any[] } }) =>
  spec.containers[0].volumeMounts.map(({ name }: { name: string }) => name);

test("workers mount the claim, gateways do not, and say which model they are of", () => {
  const { pod } = gatewayTemplate(context);
  assert.deepEqual([claims(pod).length, claims(workerTemplate(context).pod).length], [0, 1]);
  assert.deepEqual(mounted(pod), ["tmp", "tls"]);
  assert.equal(pod.annotations["enodia.dev/model-place"], "models/models/moe");
});

test("gateways keep to different nodes where they can, unless their template says where; their hash is that of releases before", () => {
  const own = { topologyKey: "zone" };
  const named = { ...context, deployment: deployment({ gateway: { podTemplate: { spec: { topologySpreadConstraints: [own] } } } }) };
  const spread = (of: typeof context) => (gatewayTemplate(of).pod.spec.topologySpreadConstraints as any[]).map((one) => one.topologyKey);
  assert.deepEqual([spread(context), spread(named)], [["kubernetes.io/hostname"], ["zone"]]);
  assert.equal(gatewayTemplate(context).hash, "db0b3bfe2c6c69ab");
});
