// The number of gateways is the spec's, an autoscaler's or that of whoever scales them, and the operator fights none of them.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type MoeWorld, serving, world } from "../../test/kit/deployment/moe-world.ts";
import { until } from "../../test/kit/wait.ts";
import { manager } from "../kube/adoption.ts";
import { applies } from "../kube/managed-fields.ts";

const front = "moe-gateway";
const autoscaler = { manager: "kube-controller-manager", subresource: "scale" };
const person = { manager: "kubectl", subresource: "scale" };

const gateways = (moe: MoeWorld) => moe.get("deployments", front);
const count = async (moe: MoeWorld): Promise<number> => (await gateways(moe)).spec.replicas;
const has = (moe: MoeWorld, replicas: number) => until(`there are ${replicas} gateways`, async () => (await count(moe)) === replicas);
const isOurs = async (moe: MoeWorld) => applies(manager, await gateways(moe), ["spec", "replicas"]);
const scale = (moe: MoeWorld, replicas: number, by: object) =>
  moe.mutate("deployments", front, (one) => Object.assign(one.spec, { replicas }), by);
const inForce = (moe: MoeWorld, generation: number): Promise<void> =>
  until(`generation ${generation} is in effect`, async () => {
    return (await moe.status()).observedGeneration === generation && moe.is("SpecAccepted", "True");
  });

/** Has the operator look several times, each for a reason of its own, after which there are so many. */
async function stays(moe: MoeWorld, replicas: number): Promise<void> {
  for (const name of [front, "moe-workers", front]) {
    moe.remove("podDisruptionBudgets", name);
    moe.wake();
    await until("the budget is back", async () => (await moe.get("podDisruptionBudgets", name)) !== undefined);
  }
  await sleep(20);
  assert.equal(await count(moe), replicas);
}

test("with no number in the spec gateways stay as they are scaled, also under a new template and a new leader", async (t) => {
  const moe = await serving(t);
  assert.deepEqual([await count(moe), await isOurs(moe)], [1, false]);
  scale(moe, 3, person);
  await until("3 gateways are counted", async () => (await moe.status()).gateway?.readyReplicas === 3);
  await stays(moe, 3);
  assert.deepEqual((await moe.status()).gateway, { replicas: 3, readyReplicas: 3 });
  await moe.change({ gateway: { podTemplate: { metadata: { labels: { tier: "front" } } } } });
  await until("the template follows", async () => (await gateways(moe)).spec.template.metadata.labels.tier === "front");
  assert.equal(await count(moe), 3);
  await moe.start();
  await stays(moe, 3);
  await moe.check("FieldConflict", "False");
});

for (const [nodes, begins] of [
  [1, 1],
  [2, 2],
] as const)
  test(`where ${nodes} nodes can take a gateway a deployment begins with ${begins}, and is left alone after`, async (t) => {
    const moe = await world(t);
    for (let i = 0; i < nodes; i++)
      moe.mutate("nodes", `node-${i}`, (one) => Object.assign(one.status, { allocatable: { cpu: "1500m", memory: "4Gi", pods: "110" } }));
    await moe.start();
    await moe.serves(3);
    await until("nobody has the number", async () => !(await isOurs(moe)));
    assert.equal(await count(moe), begins);
    scale(moe, 1, person);
    await stays(moe, 1);
    await moe.start();
    await stays(moe, 1);
    await moe.change({ suspend: true });
    await has(moe, 0);
    await moe.change({ suspend: false });
    await until("there are gateways again, and nobody has the number", async () => (await count(moe)) > 0 && !(await isOurs(moe)));
    await stays(moe, begins);
  });

test("a number that is taken out of the spec stays, nobody's; one that is given is put back when somebody scales by hand", async (t) => {
  const moe = await serving(t);
  await moe.change({ gateway: { replicas: 3 } });
  await has(moe, 3);
  await moe.change({ gateway: { replicas: null } });
  await inForce(moe, 3);
  assert.deepEqual([await count(moe), await isOurs(moe)], [3, false]);
  scale(moe, 5, autoscaler);
  await stays(moe, 5);
  await moe.change({ gateway: { replicas: 2 } });
  await has(moe, 2); // the autoscaler that had set 5 is gone
  scale(moe, 4, person);
  await has(moe, 2);
});

test("autoscale makes an autoscaler, which has the number; it goes when a number is given", async (t) => {
  const moe = await serving(t);
  await moe.change({ gateway: { autoscale: { minReplicas: 2, maxReplicas: 6, targetCPUUtilizationPercentage: 70 } } });
  const autoscalers = () => moe.all("horizontalPodAutoscalers");
  await until("there is one", () => autoscalers().length === 1);
  const [{ spec }] = autoscalers();
  assert.deepEqual([spec.minReplicas, spec.maxReplicas, spec.scaleTargetRef.name], [2, 6, front]);
  assert.equal(spec.metrics[0].containerResource.target.averageUtilization, 70);
  scale(moe, 4, autoscaler);
  await stays(moe, 4);
  await moe.change({ suspend: true });
  await has(moe, 0);
  await moe.change({ suspend: false });
  await has(moe, 1); // and the autoscaler goes on from there
  scale(moe, 4, autoscaler);
  await moe.change({ gateway: { autoscale: null, replicas: 2 } });
  await until("the number of the spec holds", async () => (await count(moe)) === 2 && autoscalers().length === 0);
  await moe.check("FieldConflict", "False");
});

test("an autoscaler of somebody else and a number in the spec are a condition with the remedy, and no storm", async (t) => {
  const moe = await serving(t);
  await moe.change({ gateway: { replicas: 2 } });
  await has(moe, 2);
  await moe.make("horizontalPodAutoscalers", "theirs", { spec: { scaleTargetRef: { kind: "Deployment", name: front }, maxReplicas: 9 } });
  let tries = 0;
  moe.kube.onWrite = (verb, { kind }) => {
    if (verb === "apply" && kind === "Deployment") tries += 1;
  };
  scale(moe, 5, autoscaler);
  const remedy = /^Deployment moe-gateway stays as it is: \.spec\.replicas is managed by kube-controller-manager \(scale\); unset spec/;
  await moe.comes("FieldConflict", "True", "ManagedByOthers", remedy);
  scale(moe, 6, autoscaler);
  scale(moe, 7, autoscaler);
  await stays(moe, 7);
  assert.equal(tries, 1);
  await moe.serves(3);
  await moe.check("SpecAccepted", /except where FieldConflict says so/);
  await moe.change({ gateway: { replicas: null } });
  await moe.comes("FieldConflict", "False");
  assert.equal(await count(moe), 7);
});

for (const verb of ["patch", "apply"])
  test(`a crash at a ${verb} of a hand-over costs no gateway`, async (t) => {
    const moe = await serving(t);
    await moe.change({ gateway: { replicas: 3 } });
    await has(moe, 3);
    await moe.stop();
    moe.kubelet.stop();
    await moe.change({ gateway: { replicas: null } });
    moe.kube.onWrite = (each, { kind }) => {
      if (each === verb && kind === "Deployment") throw new Error("the process ends here");
    };
    await moe.start();
    await moe.comes("SpecAccepted", "Unknown");
    await moe.stop();
    moe.kube.onWrite = () => {};
    moe.live();
    await moe.start();
    await inForce(moe, 3);
    assert.equal(await count(moe), 3);
  });
