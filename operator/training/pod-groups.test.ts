// Training pods that start together, on the in-memory API: the group is there before its pods and goes with them, what was asked for and is
// not there is refused, what stands in the group's place keeps pods from being made, and jobs without a group are as they were.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { AppError } from "../../crds/common.ts";
import { parseMoETrainingJob } from "../../crds/moe-training-job.ts";
import { object, PlaneWorld, ref, stopPlanes, user } from "../../test/kit/training/training-plane.ts";
import { until } from "../../test/kit/wait.ts";
import { gangOf, gangSchedulers } from "../gangs/index.ts";
import { type Resource, resources } from "../kube/kube.ts";
import { templateHash, trainingPod } from "./pod.ts";

after(stopPlanes);

const settings = { trainingImage: "i", pullPolicy: "IfNotPresent", logLevel: "info" } as const;
const together = { replicas: 3, elasticity: { minReplicas: 2, maxReplicas: 4 } };
const jobOf = (change: object) =>
  parseMoETrainingJob({ ...object({ ...together, ...change }), metadata: { ...ref, uid: "u", generation: 1 } });
const made = { image: "i", rank: 0, attempt: 0 };

for (const scheduler of gangSchedulers) {
  test(`${scheduler.name}: a pod is a member of its job's group and goes to that scheduler, unless the template names another`, () => {
    const job = jobOf({ scheduling: { gang: scheduler.name } });
    const pod: any = trainingPod(job, settings, { ...made, scheduler });
    assert.equal(gangOf(pod.metadata), scheduler.name);
    assert.equal(pod.spec.schedulerName, scheduler.schedulerName);
    assert.ok([...Object.values(pod.metadata.labels), ...Object.values(pod.metadata.annotations)].includes("j-train"));
    const alone: any = trainingPod(job, settings, made);
    assert.deepEqual([gangOf(alone.metadata), alone.spec.schedulerName], [undefined, undefined]);
    const own = jobOf({ scheduling: { gang: scheduler.name }, podTemplate: { spec: { schedulerName: "mine" } } });
    assert.equal((trainingPod(own, settings, { ...made, scheduler }) as any).spec.schedulerName, "mine");
  });
}

test("another choice replaces pods, and none at all is no choice", () => {
  const hash = (gang: string) => templateHash(jobOf({ scheduling: { gang } }), "i");
  assert.equal(new Set(["None", "Auto", "Volcano", "Coscheduling"].map(hash)).size, 4);
  assert.equal(hash("None"), templateHash(jobOf({}), "i"));
  const [none, volcano] = ["None", "Volcano"].map((gang) => trainingPod(jobOf({ scheduling: { gang } }), settings, made));
  assert.deepEqual(none?.spec, volcano?.spec, "who starts it is nothing to the process");
});

/** A cluster that has some of the schedulers' APIs, and others from the time that they are installed. */
function worldWith(installed: Set<Resource>): PlaneWorld {
  const world = new PlaneWorld();
  const { list } = world.kube;
  world.kube.list = async (resource, options) => {
    if (resource.kind === "PodGroup" && !installed.has(resource))
      throw new AppError("could not find the requested resource", { code: "NotFound" });
    return list.call(world.kube, resource, options);
  };
  return world;
}
const groups = ({ kube }: PlaneWorld): any[] =>
  [resources.coschedulingPodGroups, resources.volcanoPodGroups].flatMap((one) => kube.all(one));
const patch = ({ kube }: PlaneWorld, spec: object) => kube.patch(resources.moeTrainingJobs, ref, { spec }, user);
const message = async (world: PlaneWorld, type: string) =>
  (await world.status()).conditions?.find((one) => one.type === type)?.message ?? "";
const three = ["j-train-0-0", "j-train-1-0", "j-train-2-0"];

test("a job waits for the scheduler that it asks for, its group is there before its pods, and goes with them", async () => {
  const installed = new Set<Resource>();
  const world = worldWith(installed);
  const { create } = world.kube;
  const groupsAtPods: number[] = [];
  world.kube.create = async (resource, one, options) => {
    if (resource.kind === "Pod" && one.metadata.name.includes("-train-")) groupsAtPods.push(groups(world).length);
    return create.call(world.kube, resource, one, options);
  };
  const podTemplate = { metadata: { annotations: { "scheduling.volcano.sh/queue-name": "gpus" } } };
  await world.kube.create(resources.moeTrainingJobs, object({ ...together, scheduling: { gang: "Volcano" }, podTemplate }), user);
  await world.start();
  await until("the refusal", async () => (await world.condition("SpecAccepted")) === "False GangUnavailable");
  assert.match(
    await message(world, "SpecAccepted"),
    /spec\.scheduling\.gang: Volcano: the cluster has no PodGroups of scheduling\.volcano/,
  );
  assert.equal(world.pods.length, 0);
  installed.add(resources.volcanoPodGroups);
  await until("its pods", () => {
    void world.look();
    return world.pods.length === 3;
  });
  assert.deepEqual(new Set(groupsAtPods), new Set([1]));
  assert.ok(world.pods.every(({ metadata, spec }) => gangOf(metadata) === "Volcano" && spec.schedulerName === "volcano"));
  assert.ok(world.checks.every(({ metadata, spec }) => gangOf(metadata) === undefined && spec.schedulerName === undefined));
  const [group] = groups(world);
  assert.deepEqual([group.metadata.name, group.metadata.ownerReferences[0].kind], ["j-train", "MoETrainingJob"]);
  assert.deepEqual(group.spec, { minMember: 3, queue: "gpus" }, "all of them, since the check did not say how many are enough");
  const isUnheard = async () => /the scheduler volcano has not said a word about it/.test(await message(world, "Running"));
  await until("its scheduler's turn", isUnheard);
  world.kube.remove(resources.volcanoPodGroups, { namespace: "ns", name: "j-train" });
  await until("a group that somebody deletes is made again", () => groups(world).length === 1);
  await patch(world, { suspend: true });
  await until("no pod and no group", () => world.pods.length === 0 && groups(world).length === 0);
  await patch(world, { suspend: false });
  for (const name of three) {
    await world.pod(name);
    world.run(name, `10.0.0.${three.indexOf(name)}`);
  }
  await until("the group again", () => groups(world).length === 1);
  await until("a world", async () => (await world.condition("Running")) === "True Training");
  world.end("j-train-0-0", { outcome: "Complete" });
  await until("no pod and no group at the end", () => world.pods.length === 0 && groups(world).length === 0);
});

test("a job's network policy is there before its first pod, and goes when policies are switched off", async () => {
  const world = new PlaneWorld();
  world.networkPolicies = { operatorNamespace: "enodia-system" };
  const policies = () => world.kube.all(resources.networkPolicies).map(({ metadata }) => metadata.name);
  const { create } = world.kube;
  const atPods: string[][] = [];
  world.kube.create = async (resource, one, options) => {
    if (resource.kind === "Pod") atPods.push(policies());
    return create.call(world.kube, resource, one, options);
  };
  await world.kube.create(resources.moeTrainingJobs, object(together), user);
  await world.start();
  for (const name of three) await world.pod(name);
  assert.ok(atPods.length > 3);
  for (const seen of atPods) assert.deepEqual(seen, ["j-train"]);
  await world.stop();
  world.networkPolicies = undefined;
  await world.start();
  await until("no policy", () => policies().length === 0);
});

test("as many wait for each other as have the memory to train, by what the check found", async () => {
  const world = worldWith(new Set([resources.coschedulingPodGroups]));
  world.checkEnd = { outcome: "Fits", message: "it fits", sizes: { leastRanks: 2, alone: false } };
  await world.kube.create(resources.moeTrainingJobs, object({ ...together, scheduling: { gang: "Auto" } }), user);
  await world.start();
  for (const name of three) await world.pod(name);
  assert.deepEqual(
    groups(world).map(({ apiVersion, spec }) => [apiVersion, spec]),
    [["scheduling.x-k8s.io/v1alpha1", { minMember: 2 }]],
  );
});

test("what has the group's name and is another's keeps pods from being made, and says so", async () => {
  const world = worldWith(new Set([resources.volcanoPodGroups]));
  let looks = 0;
  const { get } = world.kube;
  world.kube.get = async (resource, at) => {
    if (resource.kind === "PodGroup") looks++;
    return get.call(world.kube, resource, at);
  };
  const { apiVersion, kind } = resources.volcanoPodGroups;
  const foreign = { apiVersion, kind, metadata: { namespace: "ns", name: "j-train" }, spec: { minMember: 9 } };
  await world.kube.create(resources.volcanoPodGroups, foreign, user);
  await world.kube.create(resources.moeTrainingJobs, object({ ...together, scheduling: { gang: "Volcano" } }), user);
  await world.start();
  await until("the refusal", async () => (await world.condition("SpecAccepted")) === "False ObjectRefused");
  assert.match(
    await message(world, "SpecAccepted"),
    /PodGroup j-train exists and does not belong to this MoETrainingJob; delete or rename/,
  );
  assert.deepEqual([world.pods, groups(world)[0].spec], [[], { minMember: 9 }]);
  const { check } = await world.status();
  const before = looks;
  await world.look();
  await until("another look", () => looks > before);
  assert.deepEqual((await world.status()).check, check, "that it fits is known still");
  assert.equal(await world.condition("SpecAccepted"), "False ObjectRefused");
  world.kube.remove(resources.volcanoPodGroups, { namespace: "ns", name: "j-train" });
  await world.look();
  await world.pod("j-train-0-0");
  assert.equal(groups(world)[0].spec.minMember, 3);
});

test("a group that cannot be written now keeps pods from being made, and progress is told all the same", async () => {
  const world = worldWith(new Set([resources.volcanoPodGroups]));
  const { apply } = world.kube;
  let away = true;
  world.kube.apply = async (resource, one, options) => {
    if (away && resource.kind === "PodGroup") throw new AppError("a webhook is away", { code: "Unavailable" });
    return apply.call(world.kube, resource, one, options);
  };
  await world.kube.create(resources.moeTrainingJobs, object({ ...together, scheduling: { gang: "Volcano" } }), user);
  await world.start();
  await until("the status", async () => (await world.condition("SpecAccepted")) === "True Accepted");
  assert.equal(world.pods.length, 0);
  away = false;
  await world.look();
  await world.pod("j-train-0-0");
});

test("a size of the group that somebody else manages stays, and one event says who", async () => {
  const world = worldWith(new Set([resources.volcanoPodGroups]));
  await world.kube.create(resources.moeTrainingJobs, object({ ...together, scheduling: { gang: "Volcano" } }), user);
  await world.start();
  await world.pod("j-train-2-0");
  const { apiVersion, kind } = resources.volcanoPodGroups;
  const mine = { apiVersion, kind, metadata: { namespace: "ns", name: "j-train" }, spec: { minMember: 2 } };
  await world.kube.apply(resources.volcanoPodGroups, mine, { manager: "somebody", force: true });
  const told = () => world.kube.all(resources.events).filter(({ reason }) => reason === "FieldConflict") as any[];
  await until("the event", () => {
    void world.look();
    return told().length > 0;
  });
  assert.match(told()[0].note, /PodGroup j-train stays as it is: \.spec\.minMember is managed by somebody/);
  await world.look();
  assert.deepEqual([told().length, groups(world)[0].spec.minMember, world.pods.length], [1, 2, 3]);
});

test("a job that asks for no group asks nothing of PodGroups, and one that does takes over what a deleted one of its name left", async () => {
  const world = worldWith(new Set([resources.volcanoPodGroups]));
  const { apiVersion, kind } = resources.volcanoPodGroups;
  const asked: string[] = [];
  for (const verb of ["get", "apply", "delete"] as const) {
    const before = (world.kube[verb] as (...args: readonly unknown[]) => unknown).bind(world.kube);
    Object.assign(world.kube, {
      [verb]: (resource: Resource, ...rest: readonly unknown[]) => {
        if (resource.kind === "PodGroup") asked.push(verb);
        return before(resource, ...rest);
      },
    });
  }
  const labels = { "app.kubernetes.io/name": "enodia", "app.kubernetes.io/managed-by": "enodia-operator", "enodia.dev/training-job": "j" };
  await world.kube.create(resources.moeTrainingJobs, object(together), user);
  await world.start();
  for (const name of three) await world.pod(name);
  assert.deepEqual(asked, []);
  const left = { apiVersion, kind, metadata: { namespace: "ns", name: "j-train", labels }, spec: { minMember: 9 } };
  await world.kube.apply(resources.volcanoPodGroups, left, { manager: "enodia-operator" });
  await patch(world, { scheduling: { gang: "Volcano" } });
  await until("members in place of pods without a group", () => {
    void world.look();
    return world.pods.length === 3 && world.pods.every(({ metadata }) => gangOf(metadata) === "Volcano");
  });
  const [group] = groups(world);
  assert.deepEqual([group.spec.minMember, group.metadata.ownerReferences[0].name], [3, "j"]);
});
