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
