// The calls of kubectl that `enodia model push` makes, and the deployment that it writes: one that the API takes.
import assert from "node:assert/strict";
import { test } from "node:test";
import { parse } from "yaml";
import { parseMoEDeployment } from "../../crds/moe-deployment.ts";
import { deploymentName, deploymentText, type PushOptions, pushSteps } from "./push-model.ts";

const options: PushOptions = {
  ...{ dir: "/data/Mixtral-8x7B_Q4", claim: "models", access: "ReadWriteMany", image: "busybox:1.37", replicas: 2 },
  kubectl: ["-n", "serving"],
};
const sizes = { codec: "source", bytes: 26_000_000_000, expertBytes: 2 ** 34, largestExpertBytes: 2 ** 26 };

test("the claim is made where there is none, the store is copied through a pod, and the pod goes", () => {
  const steps = pushSteps(options, sizes);
  assert.deepEqual(
    steps.map(({ argv }) => argv.join(" ")),
    [
      "-n serving create -f -",
      "-n serving create -f -",
      "-n serving wait pod/load-mixtral-8x7b-q4 --for=condition=Ready --timeout=5m",
      "-n serving cp /data/Mixtral-8x7B_Q4 load-mixtral-8x7b-q4:/models/ --retries=10",
    ],
  );
  assert.deepEqual(
    steps.map(({ undo }) => undo?.argv.join(" ")),
    [undefined, "-n serving delete pod load-mixtral-8x7b-q4 --ignore-not-found --wait=false", undefined, undefined],
  );
  assert.deepEqual(steps[0]?.unless, ["-n", "serving", "get", "persistentvolumeclaim", "models"]);
  const [claim, pod] = [JSON.parse(steps[0]?.input ?? ""), JSON.parse(steps[1]?.input ?? "")];
  assert.deepEqual(claim.spec, { accessModes: ["ReadWriteMany"], resources: { requests: { storage: "27276Mi" } } });
  assert.equal(pod.spec.volumes[0].persistentVolumeClaim.claimName, "models");
});

test("the deployment is one that the API takes, with room for each rank's share", () => {
  const accepted = (stored: typeof sizes) => {
    const { metadata, ...rest } = parse(deploymentText(options, stored));
    return parseMoEDeployment({ ...rest, metadata: { ...metadata, namespace: "serving", uid: "u" } });
  };
  const { metadata, spec } = accepted(sizes);
  assert.equal(metadata.name, "mixtral-8x7b-q4");
  assert.deepEqual([spec.model.uri, spec.replicas], ["pvc://models/Mixtral-8x7B_Q4", 2]);
  assert.deepEqual([spec.runtime.expertCodec, spec.experts.memoryPerRank], ["source", "9152Mi"]);
  const dense = accepted({ ...sizes, expertBytes: 0, largestExpertBytes: 0 });
  assert.equal(dense.spec.experts.memoryPerRank, undefined, "nothing is placed of a model without experts");
});

test("folders whose names Kubernetes or a URI would not take are refused, or lend what they can", () => {
  assert.equal(deploymentName(`/x/${"Very.Long_".repeat(9)}`), "very-long-very-long-very-long-very-long");
  assert.throws(() => deploymentName("/x/___"), /rename it/);
  assert.throws(() => pushSteps({ ...options, dir: "/x/my model" }, sizes), /rename the folder/);
});
