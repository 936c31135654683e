// Changes that users make while everything runs: other templates, other sizes, other releases, moves of experts.
import assert from "node:assert/strict";
import { installChart, waitReady } from "../../kit/deployment/product.ts";
import { sleep, until } from "../../kit/processes/process.ts";
import { everybody, type PodState } from "./pods.ts";
import type { Fault, Scene } from "./scene.ts";

const readyWithinMs = 180_000;
/** Plans that follow the load are made meanwhile. */
const movingMs = 12_000;
export const otherTag = "next";

const done = (mayGo: (pod: PodState) => boolean) => ({ mayGo, overAt: Date.now() });

async function whole({ moe }: Scene): Promise<void> {
  await waitReady(moe.kubectl, moe.name, readyWithinMs);
}

/** Gateways are replaced too. */
async function roll(scene: Scene, spec: object) {
  await scene.throughService();
  await scene.patch(spec);
  await whole(scene);
  await scene.throughGateways();
  return done(everybody);
}

export const templateRolled: Fault = {
  name: "the template rolled",
  strike: (scene, draw) => roll(scene, { podTemplate: { metadata: { annotations: { "example.com/rolled": String(draw) } } } }),
};

export const imageRolled: Fault = {
  name: "the runtime's image rolled",
  strike: async (scene) => {
    const { image = "" } = (await scene.moe.kubectl.get("moed", scene.moe.name)).spec.runtimeImage ?? {};
    return roll(scene, { runtimeImage: { image: `enodia/runtime:${image.endsWith(`:${otherTag}`) ? "dev" : otherTag}` } });
  },
};

/** Scales to each number in turn. Of the ranks that were there one may go, whichever has least that the others lack. */
async function resized(scene: Scene, sizes: readonly number[]) {
  const before = await scene.ranks();
  const left = new Set<string>();
  for (const replicas of sizes) {
    await scene.moe.kubectl.run(["scale", `moed/${scene.moe.name}`, `--replicas=${replicas}`]);
    await whole(scene);
    const uids = async (): Promise<ReadonlySet<string> | undefined> => {
      const ranks = await scene.ranks();
      return ranks.length === replicas ? new Set(ranks.map(({ uid }) => uid)) : undefined;
    };
    const now = await until(`${replicas} pods of ranks`, uids, { timeoutMs: readyWithinMs });
    for (const { uid } of before) if (!now.has(uid)) left.add(uid);
  }
  assert.ok(left.size <= 1, `${left.size} of ${before.length} ranks were replaced where one had to leave`);
  return done(({ uid }) => left.has(uid));
}

export const scaledDown: Fault = { name: "3 ranks, 2, and 3 again", strike: (scene) => resized(scene, [2, 3]) };
export const scaledUp: Fault = { name: "3 ranks, 4, and 3 again", strike: (scene) => resized(scene, [4, 3]) };

export const operatorUpgraded: Fault = {
  name: "the operator upgraded by Helm",
  strike: async (scene) => {
    const [pod] = await scene.system.list("pods", "app.kubernetes.io/component=operator");
    const tag = String(pod?.spec.containers[0].image).endsWith(`:${otherTag}`) ? "dev" : otherTag;
    await installChart(scene.moe.target, [`image.tag=${tag}`]);
    return done(() => false);
  },
};

export const expertsMoved: Fault = {
  name: "experts moved as load asks",
  strike: async (scene) => {
    const rebalancing = (mode: string) => ({
      rebalancing: { mode, interval: "2s", trigger: { imbalancePercent: 101, minTokens: 50 } },
    });
    await scene.patch(rebalancing("Auto"));
    await sleep(movingMs);
    await scene.patch(rebalancing("Off"));
    return done(() => false);
  },
};
