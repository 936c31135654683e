// Changes that users make while everything runs: other templates, other sizes, other releases, moves of experts.
import { sleep } from "../../harness/process.ts";
import { installChart, waitReady } from "../../harness/product.ts";
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
  await scene.throughGateway();
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

/** The ranks with the highest numbers go. */
const from =
  (count: number) =>
  ({ component, rank }: PodState): boolean =>
    component === "worker" && rank >= count;

export const scaledDown: Fault = {
  name: "3 ranks, 2, and 3 again",
  strike: async (scene) => {
    for (const replicas of [2, 3]) {
      await scene.moe.kubectl.run(["scale", `moed/${scene.moe.name}`, `--replicas=${replicas}`]);
      await whole(scene);
    }
    return done(from(2));
  },
};

export const scaledUp: Fault = {
  name: "3 ranks, 4, and 3 again",
  strike: async (scene) => {
    for (const replicas of [4, 3]) {
      await scene.moe.kubectl.run(["scale", `moed/${scene.moe.name}`, `--replicas=${replicas}`]);
      await whole(scene);
    }
    return done(from(3));
  },
};

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
