// An operator of another release or with other settings changes no pod: a deployment keeps the runtime image that it was rolled to, and
// its templates, until its owner asks for another.

import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { type MoeWorld, serving, world } from "../../test/kit/deployment/moe-world.ts";
import { until } from "../../test/kit/wait.ts";
import type { Settings } from "./objects/context.ts";

const before = "enodia/runtime:test";
const after = "enodia/runtime:next";
/** Everything that a chart may set, and the runtime of another release. */
const next: Partial<Settings> = {
  runtimeImage: after,
  pullPolicy: "Always",
  natsUrl: "tls://other:4222",
  natsCreds: undefined,
  otlpEndpoint: "http://otel:4318",
  logLevel: "debug",
};

const front = (moe: MoeWorld): any => moe.all("deployments")[0].spec.template;
const ofPods = (moe: MoeWorld, field: string): string[] => [...new Set(moe.pods.map(({ spec }) => spec.containers[0][field]))];
const runtime = async (moe: MoeWorld) => (await moe.status()).runtimeImage;
const offered = (moe: MoeWorld) => until("the other image is offered", async () => (await runtime(moe))?.available === after);
const runs = (moe: MoeWorld, image: string) =>
  until(`${image} runs`, async () => {
    return (await moe.ready(3)) && (await runtime(moe))?.image === image && ofPods(moe, "image").join() === image;
  });

/** A deployment of one operator, and then another operator in its place. */
async function upgraded(t: TestContext, meanwhile: (moe: MoeWorld) => unknown = () => {}, changed = next) {
  const moe = await serving(t);
  const were = { uids: moe.uids, front: front(moe) };
  await moe.stop();
  await meanwhile(moe);
  await moe.start({ changed });
  /** Nothing is to happen: the operator has looked, and has had the time to. */
  const stays = async (): Promise<void> => {
    await offered(moe);
    await moe.serves(3);
    assert.deepEqual([moe.uids, ofPods(moe, "image"), front(moe)], [were.uids, [before], were.front]);
  };
  return { moe, were, stays };
}

test("an operator with other settings and another runtime replaces no worker and changes no gateway", async (t) => {
  const { moe, stays } = await upgraded(t);
  await stays();
  assert.equal((await runtime(moe)).image, before);
  const remedy = /kubectl patch moed moe -n ns --type=merge -p '\{"spec":\{"runtimeImage":\{"image":"enodia\/runtime:next"\}\}\}'/;
  await moe.check("RuntimeUpToDate", "False", "AnotherImageAvailable", remedy);
  const read = moe.all("configMaps")[0].data;
  assert.deepEqual([read.ENODIA_LOG_LEVEL, read.ENODIA_NATS_URL, read.ENODIA_OTLP_ENDPOINT], ["debug", next.natsUrl, next.otlpEndpoint]);
});

test("a lost rank comes back with the image and the template of the others", async (t) => {
  const { moe, were } = await upgraded(t);
  await offered(moe);
  const [lost, ...others] = moe.pods;
  moe.remove("pods", lost.metadata.name);
  await moe.serves(3);
  assert.deepEqual([ofPods(moe, "image"), ofPods(moe, "imagePullPolicy")], [[before], ["IfNotPresent"]]);
  assert.ok(others.every(({ metadata }) => were.uids.includes(metadata.uid)));
});

for (const [how, spec] of Object.entries({
  "names the image": { runtimeImage: { image: after } },
  "wants every image at once": { runtimeImage: { rollout: "Auto" } },
}))
  test(`an owner who ${how} gets it, workers and gateways, and keeps it`, async (t) => {
    const { moe, were } = await upgraded(t);
    await offered(moe);
    await moe.change(spec);
    await runs(moe, after);
    assert.ok(moe.uids.every((uid) => !were.uids.includes(uid)));
    assert.deepEqual([front(moe).spec.containers[0].image, (await runtime(moe)).available], [after, undefined]);
    await moe.check("RuntimeUpToDate", "True");
    const rolled = moe.uids;
    await moe.change({ runtimeImage: null });
    await until("it has looked", async () => (await moe.status()).observedGeneration === 3 && moe.ready(3));
    assert.deepEqual([moe.uids, ofPods(moe, "image")], [rolled, [after]], "what it was rolled to stays");
  });

const forgetStatus = (moe: MoeWorld) => moe.mutate("moeDeployments", "moe", (one) => Object.assign(one, { status: {} }));
const forgetRevisions = (moe: MoeWorld) =>
  moe.all("controllerRevisions").map(({ metadata }) => moe.remove("controllerRevisions", metadata.name));
for (const [lost, forget] of Object.entries({
  status: forgetStatus,
  "revision of the spec": forgetRevisions,
  "status and the revision of the spec": (moe: MoeWorld) => [forgetStatus(moe), forgetRevisions(moe)],
}))
  test(`without the ${lost} the image in use is known all the same`, async (t) => {
    const { stays } = await upgraded(t, forget, { runtimeImage: after, logLevel: "debug" });
    await stays();
  });

test("a deployment that has never run gets the image of the operator that makes its first pod", async (t) => {
  const moe = await world(t, { suspend: true });
  await moe.start();
  await moe.comes("RuntimeUpToDate", "NotChosen");
  await moe.start({ changed: next });
  await moe.change({ suspend: false });
  await runs(moe, after);
});

test("an image that the template names is the owner's own: none is offered, and the operator's changes nothing", async (t) => {
  const moe = await serving(t);
  await moe.change({ podTemplate: { spec: { containers: [{ name: "runtime", image: "mine:1" }] } } });
  await runs(moe, "mine:1");
  const were = [moe.uids, front(moe)];
  await moe.start({ changed: next });
  await until("it has looked", () => moe.all("configMaps").some(({ data }) => data.ENODIA_LOG_LEVEL === "debug"));
  await moe.serves(3);
  assert.deepEqual([moe.uids, front(moe)], were);
  assert.deepEqual(await runtime(moe), { image: "mine:1" });
  await moe.check("RuntimeUpToDate", "OwnImage");
});
