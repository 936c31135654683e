// Ranks that start together: which scheduler is asked, how many ranks it waits for, what its pods carry, and what becomes of a running
// deployment when such a scheduler is installed, asked for, or gone.

import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { AppError } from "../../crds/common.ts";
import { deployment, pod, settings } from "../../test/kit/deployment/deployment.ts";
import { type MoeWorld, world } from "../../test/kit/deployment/moe-world.ts";
import { until } from "../../test/kit/wait.ts";
import { membersOf } from "../deployment/features/objects.ts";
import { absentObjects, appliedObjects } from "../deployment/objects/index.ts";
import { workerPod, workerTemplate } from "../deployment/objects/worker-pod.ts";
import type { Served } from "../kube/informers.ts";
import { type Resource, resources } from "../kube/kube.ts";
import type { GangScheduler } from "./gang.ts";
import { chooseScheduler, gangOf, gangSchedulers } from "./index.ts";

const volcano = gangSchedulers.find(({ name }) => name === "Volcano") as GangScheduler;
const wants = (gang: string, spec: object = {}, status: object = {}) => deployment({ scheduling: { gang }, replicas: 8, ...spec }, status);
const cluster = (served: Partial<Record<"Coscheduling" | "Volcano", Served>>) => (resource: Resource) =>
  served[resource === resources.volcanoPodGroups ? "Volcano" : "Coscheduling"] ?? "absent";
const chosen = (gang: string, served: Parameters<typeof cluster>[0]) => {
  const { scheduler, refusals } = chooseScheduler(wants(gang).spec, cluster(served));
  return scheduler?.name ?? refusals[0]?.message ?? "alone";
};

test("a scheduler is asked by its name, or the first that the cluster has; none is taken for another", () => {
  assert.equal(chosen("None", { Volcano: "served" }), "alone");
  assert.equal(chosen("Volcano", { Coscheduling: "served", Volcano: "served" }), "Volcano");
  assert.equal(chosen("Auto", { Coscheduling: "served", Volcano: "served" }), "Coscheduling");
  assert.equal(chosen("Auto", { Volcano: "served" }), "Volcano");
  assert.equal(chosen("Auto", {}), "alone");
  assert.match(
    chosen("Volcano", { Coscheduling: "served" }),
    /gang: Volcano: the cluster has no PodGroups of scheduling\.volcano\.sh\/v1beta1: install/,
  );
  assert.match(chosen("Coscheduling", { Coscheduling: "forbidden" }), /may not handle PodGroups of scheduling\.x-k8s\.io.*rbac\.podGroups/);
  assert.match(
    chosen("Auto", { Coscheduling: "forbidden", Volcano: "absent" }),
    /gang: Auto: the operator may not handle/,
    "not known is not none",
  );
  assert.match(chosen("Auto", { Volcano: "unknown" }), /is not known yet/);
});

const running = (count: number, more: object = {}) => Array.from({ length: count }, (_, rank) => pod(rank, { node: `n${rank}`, ...more }));
const members = (spec: object, status: object, of = running(0)) => membersOf(wants("Volcano", spec, status), of, volcano);
const known = (leastRanks: number, desiredRanks = 8) => ({ expertParallel: { desiredRanks, leastRanks, leastRanksReason: "r" } });

test("those ranks start together that hold all experts: all of them until the model's size is known, never more than are wanted", () => {
  assert.equal(members({}, {}), 8, "nothing is known");
  assert.equal(members({}, known(5)), 5);
  assert.equal(members({ failurePolicy: { minServingReplicas: 6 } }, known(5)), 6, "fewer would count as an outage");
  assert.equal(members({}, known(5, 3)), 3);
  assert.equal(members({ replicas: 4 }, known(5, 0)), 4, "from nothing it is those that are asked for");
  assert.equal(members({ replicas: 0 }, {}), 0);
  assert.equal(members({ suspend: true }, known(5)), 0);
});

test("ranks that run outside of the group are there already, so that the replacement of one waits for nobody", () => {
  assert.equal(members({}, known(5), running(8)), 1, "from before there was a group");
  assert.equal(members({}, known(5), running(3)), 2);
  assert.equal(members({}, known(5), running(8, { gang: "Volcano" })), 5);
  assert.equal(members({}, known(5), running(8, { gang: "Coscheduling" })), 1, "members of another scheduler's");
  assert.equal(members({}, known(5), running(8, { node: undefined })), 5, "what has no node is not there");
});

for (const scheduler of gangSchedulers) {
  test(`${scheduler.name}: a pod is a member of its deployment's group and goes to that scheduler, unless the template names another`, () => {
    const gang = { scheduler, members: 3 };
    const podTemplate = {
      metadata: { annotations: { "scheduling.volcano.sh/queue-name": "gpus" } },
      spec: { priorityClassName: "serving" },
    };
    const context = { deployment: wants(scheduler.name, { podTemplate }), settings, gang };
    const made = workerPod(context, workerTemplate(context), 0, "abcde") as any;
    assert.equal(gangOf(made.metadata), scheduler.name);
    assert.equal(made.spec.schedulerName, scheduler.schedulerName);
    assert.ok([...Object.values(made.metadata.labels), ...Object.values(made.metadata.annotations)].includes("moe-workers"));
    const alone = { deployment: wants(scheduler.name, { podTemplate }), settings };
    const single = workerPod(alone, workerTemplate(alone), 0, "abcde") as any;
    assert.deepEqual([gangOf(single.metadata), single.spec.schedulerName], [undefined, undefined]);
    assert.equal(workerTemplate(context).hash, workerTemplate(alone).hash, "that it is installed later rolls nothing");
    const own = { ...context, deployment: wants(scheduler.name, { podTemplate: { spec: { schedulerName: "mine" } } }) };
    assert.equal((workerPod(own, workerTemplate(own), 0, "abcde") as any).spec.schedulerName, "mine");
    const [group] = appliedObjects(context);
    assert.deepEqual([group?.resource, group?.object.metadata.name], [scheduler.resource, "moe-workers"]);
    const absent = (of: typeof alone) =>
      absentObjects(of)
        .filter(({ resource }) => resource.kind === "PodGroup")
        .map(({ resource }) => resource);
    assert.deepEqual(
      absent(context),
      gangSchedulers.filter((one) => one !== scheduler).map(({ resource }) => resource),
    );
    assert.equal(absent(alone).length, gangSchedulers.length);
    const more = scheduler === volcano ? { queue: "gpus", priorityClassName: "serving" } : {};
    assert.deepEqual(group?.object.spec, { minMember: 3, ...more });
  });
}

test("another choice is a roll, and a template that makes its pods members of a group of its own is refused", () => {
  const hash = (gang: string) => workerTemplate({ deployment: wants(gang), settings }).hash;
  assert.equal(new Set(["None", "Auto", "Volcano", "Coscheduling"].map(hash)).size, 4);
  const podTemplate = { metadata: { labels: { "scheduling.x-k8s.io/pod-group": "mine" } } };
  const { refusals } = chooseScheduler(wants("Coscheduling", { podTemplate }).spec, cluster({ Coscheduling: "served" }));
  assert.match(refusals[0]?.message ?? "", /podTemplate\.metadata\.labels: "scheduling\.x-k8s\.io\/pod-group" is the operator's/);
  assert.deepEqual(chooseScheduler(wants("Volcano", { podTemplate }).spec, cluster({ Volcano: "served" })).refusals, []);
});

/** A cluster that has no scheduler's API until the time that it is installed. */
async function clusterFor(t: TestContext, gang: string) {
  const moe = await world(t, { scheduling: { gang } });
  const installed = new Set<Resource>();
  const { list } = moe.kube;
  moe.kube.list = async (resource, options) => {
    if (resource.kind === "PodGroup" && !installed.has(resource))
      throw new AppError("could not find the requested resource", { code: "NotFound" });
    return list(resource, options);
  };
  await moe.start();
  return { moe, installed };
}

const groups = (moe: MoeWorld) => [...moe.all("coschedulingPodGroups"), ...moe.all("volcanoPodGroups")];
const gangs = (moe: MoeWorld) => moe.pods.map(({ metadata }) => gangOf(metadata));
const members3 = (moe: MoeWorld, gang: string | undefined) =>
  until(`3 ranks are of ${gang}`, () => moe.pods.length === 3 && gangs(moe).every((one) => one === gang));

test("nothing starts without the scheduler that was asked for, and everything once it is installed, without a restart", async (t) => {
  const { moe, installed } = await clusterFor(t, "Volcano");
  await moe.comes("SpecAccepted", "GangUnavailable");
  assert.equal(moe.pods.length, 0);
  installed.add(resources.volcanoPodGroups);
  await until("it is found, and the ranks serve", () => moe.ready(3), 120_000);
  const [group, ...others] = groups(moe);
  assert.deepEqual([others.length, group.apiVersion, group.metadata.name], [0, "scheduling.volcano.sh/v1beta1", "moe-workers"]);
  assert.ok(moe.pods.every((one) => gangOf(one.metadata) === "Volcano" && one.spec.schedulerName === "volcano"));
  moe.remove("volcanoPodGroups", "moe-workers");
  await until("a group that somebody deletes is made again", () => groups(moe).length === 1);
  await moe.change({ scheduling: { gang: "None" } });
  await members3(moe, undefined);
  assert.deepEqual(groups(moe), [], "and the group holds no quota any more");
  await moe.change({ scheduling: { gang: "Volcano" } });
  await members3(moe, "Volcano");
  await moe.change({ suspend: true });
  await until("no group without ranks", () => groups(moe).length === 0);
});

test("Auto serves without any of them, and a lost rank joins the group of one that is installed later; nothing is rolled", async (t) => {
  const { moe, installed } = await clusterFor(t, "Auto");
  await moe.serves(3);
  assert.deepEqual(groups(moe), []);
  const before = moe.uids;
  installed.add(resources.coschedulingPodGroups);
  const found = () => {
    moe.wake();
    return groups(moe).length === 1;
  };
  await until("the group", found, 120_000);
  assert.equal(groups(moe)[0].spec.minMember, 1, "the others run already");
  assert.deepEqual(moe.uids, before);
  moe.lose(0);
  await moe.serves(3);
  assert.deepEqual(gangs(moe).filter(Boolean), ["Coscheduling"]);
});
