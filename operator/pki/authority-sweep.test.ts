// The end of a CA: with its deployment, and never on hearsay.

import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { AppError } from "../../crds/common.ts";
import { settings } from "../../test/kit/deployment/deployment.ts";
import { MoeWorld, ref, serving } from "../../test/kit/deployment/moe-world.ts";
import { Informers } from "../kube/informers.ts";
import { resources } from "../kube/kube.ts";
import { authorityName } from "./authorities.ts";
import { sweepAuthorities } from "./authority-sweep.ts";

const authorities = (moe: MoeWorld): string[] =>
  moe
    .all("secrets")
    .filter(({ metadata }) => metadata.namespace === settings.namespace)
    .map(({ metadata }) => metadata.name);
const authority = async (moe: MoeWorld) => authorityName(ref, (await moe.get("moeDeployments")).metadata.uid);

/** An operator that comes later and knows what the API server tells it. */
async function sweep({ kube }: MoeWorld, ...namespaces: string[]): Promise<void> {
  const informers = new Informers(namespaces, settings.namespace, { kube, random: () => 0 });
  informers.start();
  await informers.refresh();
  await sweepAuthorities({ kube, informers }).finally(() => informers.stop());
}

/** A deployment that served until its operator went. */
async function deserted(t: TestContext) {
  const moe = await serving(t);
  await moe.stop();
  moe.kubelet.stop();
  return { moe, ca: await authority(moe) };
}

test("a CA goes with its deployment, though no operator saw it go", async (t) => {
  const { moe, ca } = await deserted(t);
  await sweep(moe);
  assert.deepEqual(authorities(moe), [ca]);
  moe.remove("moeDeployments");
  await sweep(moe);
  assert.deepEqual(authorities(moe), []);
});

test("the CA of a deployment that cannot be seen stays: another's namespace, a forbidden one, an error, a copy that is behind", async (t) => {
  const { moe, ca } = await deserted(t);
  const deployment = await moe.get("moeDeployments");
  moe.remove("moeDeployments");
  await sweep(moe, "elsewhere");
  assert.deepEqual(authorities(moe), [ca], "it is not watched");
  const { list } = moe.kube;
  const answers: Record<string, typeof list> = {
    "its namespace is forbidden": async (resource, options) => {
      if (options?.namespace === ref.namespace) throw new AppError("forbidden", { code: "Forbidden", retry: "never" });
      return list(resource, options);
    },
    "the question fails": async (resource, options) => {
      if (resource === resources.moeDeployments && options?.namespace === ref.namespace)
        throw new AppError("no such resource", { code: "NotFound", retry: "never" });
      return list(resource, options);
    },
    "it was made a moment ago": async (resource, options) => {
      const found = await list(resource, options);
      return resource === resources.moeDeployments && options?.namespace === ref.namespace ? { ...found, items: [deployment] } : found;
    },
  };
  for (const [what, answer] of Object.entries(answers)) {
    moe.kube.list = answer;
    await sweep(moe, ...(what.includes("forbidden") ? [ref.namespace] : [])).catch(() => {});
    assert.deepEqual(authorities(moe), [ca], what);
  }
  moe.kube.list = list;
  await sweep(moe, ref.namespace);
  assert.deepEqual(authorities(moe), []);
});

test("what pods were left behind with still proves whose they were, and a namesake's pods keep no CA but their own", async (t) => {
  const { moe, ca } = await deserted(t);
  moe.kube.collectsAtOnce = false;
  moe.remove("moeDeployments");
  await sweep(moe);
  assert.deepEqual(authorities(moe), [ca]);
  moe.kube.collect();
  await moe.create({ replicas: 1 });
  moe.kube.collectsAtOnce = true;
  moe.live();
  await moe.start();
  await moe.serves(1);
  await moe.stop();
  assert.equal(authorities(moe).length, 2);
  await sweep(moe);
  assert.deepEqual(authorities(moe), [await authority(moe)]);
});

test("a Secret that is not for a deployment is nobody's to sweep", async () => {
  const moe = new MoeWorld();
  await moe.make("secrets", "mine", { metadata: { labels: { "enodia.dev/component": "authority" } } }, { ...ref, ...settings });
  await sweep(moe);
  assert.deepEqual(authorities(moe), ["mine"]);
});
