// The gateway's pod: without the model's claim, but for an image that has mounted it before.
import assert from "node:assert/strict";
import { test } from "node:test";
import { deployment, settings } from "../../../test/kit/deployment/deployment.ts";
import { restrictedFaults } from "../../../test/kit/kube/pod-security.ts";
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

test("an image whose gateways have mounted the claim has it, another one has not", () => {
  const model = workerTemplate(context).pod.spec.volumes.find(({ name }) => name === "models") ?? assert.fail();
  const { pod, hash } = gatewayTemplate(context);
  const former = { hash, pod: { ...pod, spec: { ...pod.spec, volumes: [...pod.spec.volumes, model] } } };
  const again = gatewayTemplate(context, [former]);
  assert.deepEqual([claims(again.pod), mounted(again.pod)], [[model], ["tmp", "tls", "models"]]);
  assert.equal(again.hash, hash, "it is no other template");
  assert.deepEqual(restrictedFaults(again.pod.spec as any), []);
  const other = { ...context, settings: { ...settings, runtimeImage: "enodia/runtime:next" } };
  assert.deepEqual(claims(gatewayTemplate(other, [former]).pod), []);
  assert.deepEqual(claims(gatewayTemplate(context, [{ hash, pod }]).pod), []);
  const volume = { name: "models", emptyDir: {} };
  const own = {
    deployment: deployment({ gateway: { podTemplate: { spec: { containers: [{ name: "gateway" }], volumes: [volume] } } } }),
    settings,
  };
  assert.deepEqual(
    gatewayTemplate(own, [former]).pod.spec.volumes.filter(({ name }) => name === "models"),
    [volume],
    "a volume of the template's own is no claim of ours",
  );
});
