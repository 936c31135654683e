// An operator of another release or with other settings changes no pod: a deployment keeps the runtime image that it was rolled to, and
// its templates, until its owner asks for another.
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  conditionOf,
  kubelet,
  pods,
  readyWith,
  ref,
  serving,
  startOperator,
  status,
  until,
  user,
  world,
} from "../../test/kit/deployment/deployment-plane.ts";
import type { FakeKube } from "../../test/kit/kube/fake-kube.ts";
import { type KubeObject, resources } from "../kube/kube.ts";
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

const change = (kube: FakeKube, spec: object) => kube.patch(resources.moeDeployments, ref, { spec }, user);
const uids = (kube: FakeKube): string[] => pods(kube).map((object) => object.metadata.uid);
const images = (kube: FakeKube): string[] => [...new Set(pods(kube).map((object) => object.spec.containers[0].image))];
const front = (kube: FakeKube): any => (kube.all(resources.deployments)[0] as any).spec.template;
const runtime = async (kube: FakeKube) => (await status(kube)).runtimeImage;
const upToDate = async (kube: FakeKube) => conditionOf(await status(kube), "RuntimeUpToDate");
const offered = (kube: FakeKube) => async () => (await runtime(kube))?.available === after;
const runs = (kube: FakeKube, image: string) => async () =>
  (await readyWith(kube, 3)()) && (await runtime(kube))?.image === image && images(kube).join() === image;

/** A deployment of one operator, and then another operator in its place. */
async function upgraded(meanwhile: (kube: FakeKube) => unknown = () => {}, changed = next) {
  const { kube, life, operator } = await serving();
  const were = { pods: uids(kube), front: front(kube) };
  await operator.stop();
  await meanwhile(kube);
  const another = await startOperator(kube, { changed });
  const stop = async (): Promise<void> => {
    life.stop();
    await another.stop();
  };
  return { kube, were, stop };
}

/** Nothing is to happen: the operator has looked, and has had the time to. */
async function stays(kube: FakeKube, were: { readonly pods: readonly string[]; readonly front: unknown }): Promise<void> {
  await until("the other image is offered", offered(kube));
  await until("all is well", readyWith(kube, 3));
  assert.deepEqual([uids(kube), images(kube), front(kube)], [were.pods, [before], were.front]);
}

test("an operator with other settings and another runtime replaces no worker and changes no gateway", { timeout: 60_000 }, async () => {
  const { kube, were, stop } = await upgraded();
  await stays(kube, were);
  assert.equal((await runtime(kube)).image, before);
  const { status: said, reason, message } = await upToDate(kube);
  assert.deepEqual([said, reason], ["False", "AnotherImageAvailable"]);
  assert.match(message, /kubectl patch moed moe -n ns --type=merge -p '\{"spec":\{"runtimeImage":\{"image":"enodia\/runtime:next"\}\}\}'/);
  const read = (kube.all(resources.configMaps)[0] as any).data;
  assert.deepEqual([read.ENODIA_LOG_LEVEL, read.ENODIA_NATS_URL, read.ENODIA_OTLP_ENDPOINT], ["debug", next.natsUrl, next.otlpEndpoint]);
  await stop();
});

test("a lost rank comes back with the image and the template of the others", { timeout: 60_000 }, async () => {
  const { kube, were, stop } = await upgraded();
  await until("the other image is offered", offered(kube));
  const [lost, ...others] = pods(kube);
  kube.remove(resources.pods, { namespace: "ns", name: lost.metadata.name });
  await until("3 ranks serve", readyWith(kube, 3));
  assert.deepEqual(images(kube), [before]);
  const spec = ({ containers }: { containers: { imagePullPolicy: string }[] }) => containers[0]?.imagePullPolicy;
  assert.deepEqual([...new Set(pods(kube).map((object) => spec(object.spec)))], ["IfNotPresent"]);
  assert.ok(others.every((object) => were.pods.includes(object.metadata.uid)));
  await stop();
});

for (const [how, spec] of Object.entries({
  "names the image": { runtimeImage: { image: after } },
  "wants every image at once": { runtimeImage: { rollout: "Auto" } },
})) {
  test(`an owner who ${how} gets it, workers and gateways, and keeps it`, { timeout: 60_000 }, async () => {
    const { kube, were, stop } = await upgraded();
    await until("the other image is offered", offered(kube));
    await change(kube, spec);
    await until("it is rolled out", runs(kube, after));
    assert.ok(uids(kube).every((uid) => !were.pods.includes(uid)));
    assert.equal(front(kube).spec.containers[0].image, after);
    assert.equal((await runtime(kube)).available, undefined);
    assert.equal((await upToDate(kube)).status, "True");
    const rolled = uids(kube);
    await change(kube, { runtimeImage: null });
    await until("it has looked", async () => (await status(kube)).observedGeneration === 3 && (await readyWith(kube, 3)()));
    assert.deepEqual([uids(kube), images(kube)], [rolled, [after]], "what it was rolled to stays");
    await stop();
  });
}

for (const [lost, forget] of Object.entries({
  status: (kube: FakeKube) => kube.mutate(resources.moeDeployments, ref, (object) => Object.assign(object, { status: {} })),
  "revision of the spec": forgetRevisions,
  "status and the revision of the spec": (kube: FakeKube) => {
    kube.mutate(resources.moeDeployments, ref, (object) => Object.assign(object, { status: {} }));
    forgetRevisions(kube);
  },
})) {
  test(`without the ${lost} the image in use is known all the same`, { timeout: 60_000 }, async () => {
    const { kube, were, stop } = await upgraded(forget, { runtimeImage: after, logLevel: "debug" });
    await stays(kube, were);
    await stop();
  });
}

function forgetRevisions(kube: FakeKube): void {
  const revisions: readonly KubeObject[] = kube.all(resources.controllerRevisions);
  for (const { metadata } of revisions) kube.remove(resources.controllerRevisions, { namespace: "ns", name: metadata.name });
}

test("a deployment that has never run gets the image of the operator that makes its first pod", { timeout: 60_000 }, async () => {
  const kube = await world();
  await change(kube, { suspend: true });
  const operator = await startOperator(kube);
  await until("it has looked", async () => (await status(kube)).observedGeneration === 2);
  assert.equal((await upToDate(kube)).reason, "NotChosen");
  await operator.stop();
  const life = kubelet(kube);
  const another = await startOperator(kube, { changed: next });
  await change(kube, { suspend: false });
  await until("it runs", runs(kube, after));
  life.stop();
  await another.stop();
});

test("an image that the template names is the owner's own: none is offered, and the operator's changes nothing", {
  timeout: 60_000,
}, async () => {
  const { kube, life, operator } = await serving();
  await change(kube, { podTemplate: { spec: { containers: [{ name: "runtime", image: "mine:1" }] } } });
  await until("it is rolled out", runs(kube, "mine:1"));
  const were = { pods: uids(kube), front: front(kube) };
  await operator.stop();
  const another = await startOperator(kube, { changed: next });
  await until("it has looked", async () => kube.all(resources.configMaps).some((one) => (one as any).data.ENODIA_LOG_LEVEL === "debug"));
  await until("all is well", readyWith(kube, 3));
  assert.deepEqual([uids(kube), front(kube)], [were.pods, were.front]);
  assert.deepEqual(await runtime(kube), { image: "mine:1" });
  assert.equal((await upToDate(kube)).reason, "OwnImage");
  life.stop();
  await another.stop();
});
