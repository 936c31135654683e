// Faults of nodes: power off, a link that is cut, packets that are lost.
import { cutLink, healLink, killNode, startNode } from "../../cluster/cluster.ts";
import { losePackets } from "../../cluster/packet-loss.ts";
import { sleep } from "../../kit/processes/process.ts";
import { clusterName } from "../world.ts";
import { nobody, type PodState } from "./pods.ts";
import { awayMs } from "./ranks.ts";
import type { Fault, Scene } from "./scene.ts";
import { drawn } from "./schedule.ts";

/** Of all packets that come to the node and its pods. */
const lostPercent = 3;
const lossMs = 12_000;

/** A node without a gateway, and with a rank if one has: those of gateways take connections of clients along. */
async function nodeOf(scene: Scene, draw: number): Promise<string> {
  const spared = await scene.sparedNodes();
  const ranks = new Set((await scene.ranks()).map(({ node }) => node));
  const all = (await scene.system.list("nodes")).map(({ metadata }) => metadata.name).filter((node) => !spared.has(node));
  const some = all.filter((node) => ranks.has(node));
  return drawn((some.length > 0 ? some : all).sort(), draw, "node without a gateway");
}

const on =
  (node: string) =>
  (pod: PodState): boolean =>
    pod.node === node;

export const nodeOff: Fault = {
  name: "a node off and on",
  strike: async (scene, draw) => {
    const node = await nodeOf(scene, draw);
    await killNode(clusterName, node);
    try {
      await sleep(awayMs);
    } finally {
      await startNode(clusterName, node);
    }
    return { mayGo: on(node), overAt: Date.now() };
  },
};

export const linkCut: Fault = {
  name: "a node's link cut and healed",
  strike: async (scene, draw) => {
    const node = await nodeOf(scene, draw);
    await cutLink(clusterName, node);
    try {
      await sleep(awayMs);
    } finally {
      await healLink(clusterName, node);
    }
    return { mayGo: nobody, overAt: Date.now() };
  },
};

export const packetsLost: Fault = {
  name: `${lostPercent}% of a node's packets lost`,
  strike: async (scene, draw) => {
    const { node } = drawn(await scene.ranks(), draw, "rank");
    const heal = await losePackets(clusterName, node, lostPercent);
    try {
      await sleep(lossMs);
    } finally {
      await heal();
    }
    return { mayGo: nobody, overAt: Date.now() };
  },
};
