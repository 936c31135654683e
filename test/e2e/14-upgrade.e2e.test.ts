// `helm upgrade` to another release: the operator is replaced and told another log level, and no worker and no gateway is replaced or
// restarted for it. They log at the new level, and get the new runtime when the owner of the deployment asks for it. Both releases
// are this tree's images, under two tags.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { tagImage } from "../cluster/tag-image.ts";
import { helmTest, installChart, type Target, waitReady } from "../kit/deployment/product.ts";
import { type Load, startLoad } from "../kit/gateway/traffic-load.ts";
import { condition, type KubeObject } from "../kit/kube/kubectl.ts";
import { until } from "../kit/processes/process.ts";
import { explainFailures } from "./diagnose.ts";
import { clusterName, type Deployed, deploy, openWorld, remove, smolMoe } from "./world.ts";

const name = "kept";
const tag = "next";
const runtime = (of: string): string => `enodia/runtime:${of}`;

let target: Target;
let moe: Deployed;
let load: Load | undefined;

explainFailures(() => moe);
before(async () => {
  target = await openWorld();
  for (const image of ["operator", "runtime"]) await tagImage(clusterName, `enodia/${image}:dev`, `enodia/${image}:${tag}`);
  moe = await deploy(target, "e2e-upgrade", smolMoe(name, { replicas: 2 }));
});
after(async () => {
  await load?.stop();
  if (moe) await remove(moe);
  if (target) await installChart(target); // the files after this one know the first release
});

/** Workers and gateways, with what would show that one was replaced, restarted or changed. */
async function pods(): Promise<{ uid: string | undefined; image: string; restarts: number }[]> {
  const all = (await moe.kubectl.list("pods")).toSorted((a, b) => (a.metadata.name < b.metadata.name ? -1 : 1));
  return all.map(({ metadata, spec, status }) => ({
    uid: metadata.uid,
    image: spec.containers[0].image,
    restarts: status.containerStatuses?.[0]?.restartCount ?? 0,
  }));
}

const upToDate = (status: "True" | "False") => (moed: KubeObject) => condition(moed, "RuntimeUpToDate")?.status === status;

/** True when every pod of the deployment has told that it logs at the level. */
async function logAt(level: string): Promise<true | undefined> {
  for (const { metadata } of await moe.kubectl.list("pods")) {
    const lines = (await moe.kubectl.run(["logs", metadata.name])).split("\n");
    if (!lines.some((line) => line.includes(`"level":"${level}"`) && line.includes("log level changed"))) return undefined;
  }
  return true;
}

test("helm upgrade to another operator with another log level replaces and restarts no pod, and all log at that level", async () => {
  const url = await moe.url();
  const were = await pods();
  load = startLoad({ url: () => url, model: name, clients: 1, topic: "code" });
  await installChart(target, [`image.tag=${tag}`, `runtimeImage.tag=${tag}`, "logLevel=debug"]);
  const moed = await moe.kubectl.waitFor("moed", name, "RuntimeUpToDate=False", upToDate("False"), 60_000);
  assert.deepEqual(moed.status.runtimeImage, { image: runtime("dev"), available: runtime(tag) });
  await until("every pod to log at the new level", () => logAt("debug"), { timeoutMs: 30_000 });
  await waitReady(moe.kubectl, name);
  assert.deepEqual(await pods(), were);
  assert.ok(were.every(({ restarts }) => restarts === 0));
  await load.stop();
  assert.ok(load.counts.requests > 0);
  assert.equal(load.counts.failed, 0, load.errors[0]);
});

test("`helm test` finds the upgraded release well, from within the cluster", async () => {
  const said = await helmTest(target);
  for (const check of ["leader", "the operator's rights", "CRDs"]) assert.match(said, new RegExp(`^ok +${check} `, "m"), said);
  assert.match(said, /Phase: +Succeeded/);
});

test("the command that the condition names rolls workers and gateways to the new runtime", async () => {
  const { message = "" } = condition(await moe.kubectl.get("moed", name), "RuntimeUpToDate") ?? {};
  const [, patch = ""] = /kubectl patch moed kept -n e2e-upgrade --type=merge -p '(.*)'$/.exec(message) ?? [];
  await moe.kubectl.run(["patch", "moed", name, "--type=merge", "-p", patch]);
  const rolled = (moed: KubeObject): boolean => upToDate("True")(moed) && moed.status.updatedReplicas === moed.spec.replicas;
  await moe.kubectl.waitFor("moed", name, "every rank to be of the new runtime", rolled, 90_000);
  await waitReady(moe.kubectl, name);
  const all = async (): Promise<true | undefined> => ((await pods()).every(({ image }) => image === runtime(tag)) ? true : undefined);
  await until("every pod to run the new image", all, { timeoutMs: 60_000 });
});
