// Rolls that go wrong under traffic: an image that crashes, an image that nobody has, and canaries that are planted slow. Each is taken
// back by the operator, no request fails and no text changes meanwhile; then the command line takes the spec back, and a good template
// rolls with two ranks at a time.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { serviceAddress, type Target, waitReady } from "../kit/deployment/product.ts";
import { condition } from "../kit/kube/kubectl.ts";
import { explainFailures } from "./diagnose.ts";
import { startTraffic, type Traffic } from "./steady-traffic.ts";
import { enodia, inPhase, patchSpec, workerUids } from "./steps.ts";
import { type Deployed, deploy, openWorld, remove, smolMoe } from "./world.ts";

const name = "rolls";
const namespace = "e2e-rollouts";
/** The kubelet waits 10 s and 20 s before a container starts again, and nodes of this cluster are slow. */
const rollMs = 180_000;

let target: Target;
let moe: Deployed;
let traffic: Traffic | undefined;

explainFailures(() => moe);
before(async () => {
  target = await openWorld();
  moe = await deploy(target, namespace, smolMoe(name, { replicas: 2 }));
  await moe.kubectl.waitFor("moed", name, "the first template to be whole", inPhase("Complete"), 60_000);
  // The Service, since gateways roll too.
  const { url } = await serviceAddress(target, moe.kubectl, { name, namespace });
  traffic = await startTraffic({ url: () => url, model: name, clients: 2, everyMs: 3_000, tokens: 24 });
});
after(async () => {
  await traffic?.stop();
  if (moe) await remove(moe);
});

const patch = (spec: object) => patchSpec(moe, spec);

/** Everything is as it was: what was made for the roll is gone, and the spec is as it was before by the command line. */
async function takenBack(reason: string, were: readonly unknown[]): Promise<void> {
  const moed = await moe.kubectl.waitFor("moed", name, `a roll back for ${reason}`, inPhase("RolledBack"), rollMs);
  assert.equal(moed.status.rollout.rolledBack.reason, reason);
  assert.equal(condition(moed, "SpecAccepted")?.reason, "RolledBack");
  assert.match(condition(moed, "SpecAccepted")?.message ?? "", /was rolled back to revision \d+: .*enodia rollout resume/);
  assert.equal(moed.status.history.filter(({ result }: { result: string }) => result === "RolledBack").length > 0, true);
  assert.match(await enodia(moe, "rollout", "undo", name), /the spec is that of revision \d+ again/);
  await moe.kubectl.waitFor("moed", name, "the spec to be accepted", inPhase("Complete"), rollMs);
  await waitReady(moe.kubectl, name);
  const now = await workerUids(moe);
  if (were.length > 0) assert.deepEqual(now, were, "no rank that served has gone for it");
  traffic?.assertWhole();
}

test("an image whose pods crash is rolled back, and no rank that served goes for it", async () => {
  const were = await workerUids(moe);
  // It is on the nodes, and has no worker in it.
  await patch({ runtimeImage: { image: "enodia/operator:dev" } });
  await takenBack("Crashing", were);
});

test("an image that nobody has is rolled back when its time is over", async () => {
  const were = await workerUids(moe);
  await patch({ runtimeImage: { image: "enodia/runtime:missing" }, rolloutStrategy: { progressDeadline: "20s" } });
  await takenBack("ProgressDeadlineExceeded", were);
});

test("a canary that is slow is rolled back by its latency", async () => {
  const analysis = { bake: "10m", latencyPercent: 130, minRequests: 5 };
  const slow = { containers: [{ name: "runtime", resources: { limits: { cpu: "300m" }, requests: { cpu: "50m" } } }] };
  await patch({ rolloutStrategy: { progressDeadline: "10m", canary: { ranks: 1, analysis } }, podTemplate: { spec: slow } });
  await takenBack("LatencyExceeded", []);
});

test("a good template rolls past its canary, ranks two at a time, and the history tells all of it", async () => {
  const canary = { ranks: 1, analysis: { bake: "10s", latencyPercent: 400, errorRatePercent: 10, minRequests: 2 } };
  await patch({
    rolloutStrategy: { canary, maxSurge: 2 },
    podTemplate: { spec: null, metadata: { annotations: { "example.com/rolled": "1" } } },
  });
  await moe.kubectl.waitFor("moed", name, "the canary to bake", inPhase("Baking"), rollMs);
  assert.match(await enodia(moe, "rollout", "status", name, "--watch", "--timeout", "10m"), /Complete +2 of 2 ranks serve/);
  await waitReady(moe.kubectl, name);
  const history = await enodia(moe, "rollout", "history", name);
  for (const said of [/RolledBack/, /Done/, /in effect, whole/]) assert.match(history, said);
  traffic?.assertWhole();
});
