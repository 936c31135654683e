// Faults of ranks: processes that are killed or stand still, and pods that go without a word.
import { kubeletOf } from "../../cluster/control-process.ts";
import { processOf } from "../../kit/kube/pod-process.ts";
import { sleep } from "../../kit/processes/process.ts";
import { nobody, type PodState } from "./pods.ts";
import type { Fault, Struck } from "./scene.ts";
import { drawn } from "./schedule.ts";

/** Shorter than what the kubelet's probes give a process. */
export const awayMs = 8_000;

export const those = (victims: readonly PodState[]) => {
  const uids = new Set(victims.map(({ uid }) => uid));
  return ({ uid }: PodState): boolean => uids.has(uid);
};

async function kill(victims: readonly PodState[]) {
  const pids = await Promise.all(victims.map(({ uid }) => processOf(uid)));
  for (const pid of pids) process.kill(pid, "SIGKILL");
  return { mayGo: those(victims), overAt: Date.now() };
}

export const rankKilled: Fault = {
  name: "a rank killed",
  strike: async (scene, draw) => kill([drawn(await scene.ranks(), draw, "rank")]),
};

export const twoRanksKilled: Fault = {
  name: "two ranks killed",
  strike: async (scene, draw) => {
    const ranks = await scene.ranks();
    const spared = drawn(ranks, draw, "rank");
    return kill(ranks.filter((rank) => rank !== spared).slice(0, 2));
  },
};

export const podDeleted: Fault = {
  name: "a pod deleted without grace",
  strike: async (scene, draw) => {
    const victim = drawn(await scene.ranks(), draw, "rank");
    await scene.moe.kubectl.run(["delete", "pod", victim.name, "--grace-period=0", "--force", "--wait=false"]);
    return { mayGo: those([victim]), overAt: Date.now() };
  },
};

export const podEvicted: Fault = {
  name: "a pod deleted with grace",
  strike: async (scene, draw) => {
    const victim = drawn(await scene.ranks(), draw, "rank");
    await scene.moe.kubectl.run(["delete", "pod", victim.name, "--wait=false"]);
    return { mayGo: those([victim]), overAt: Date.now() };
  },
};

/** Stops a process, and lets it go on. */
export async function standStill(pid: number): Promise<Struck> {
  process.kill(pid, "SIGSTOP");
  try {
    await sleep(awayMs);
  } finally {
    process.kill(pid, "SIGCONT");
  }
  return { mayGo: nobody, overAt: Date.now() };
}

export const rankStopped: Fault = {
  name: "a rank stands still and goes on",
  strike: async (scene, draw) => standStill(await processOf(drawn(await scene.ranks(), draw, "rank").uid)),
};

/** Its pod is gone for the operator, and with it its place among the members; its process goes on until its kubelet knows. */
export const rankLeftOut: Fault = {
  name: "a rank left out of membership while it streams",
  strike: async (scene, draw) => {
    const victim = drawn(await scene.ranks(), draw, "rank");
    const kubelet = kubeletOf(victim.node);
    process.kill(kubelet, "SIGSTOP");
    try {
      await scene.moe.kubectl.run(["delete", "pod", victim.name, "--grace-period=0", "--force", "--wait=false"]);
      await sleep(awayMs);
    } finally {
      process.kill(kubelet, "SIGCONT");
    }
    return { mayGo: those([victim]), overAt: Date.now() };
  },
};
