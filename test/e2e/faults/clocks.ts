// A wrong clock: a process whose clock jumps, as it reads it, and jumps back. Nodes of a local cluster share the machine's clock, so the
// jump is made in the process: by the inspector that Node opens on the pod's own loopback when it is asked to by a signal.

import { processOf } from "../../kit/kube/pod-process.ts";
import { sleep, until } from "../../kit/processes/process.ts";
import { setClock } from "../../kit/processes/process-clock.ts";
import { nobody } from "./pods.ts";
import { those } from "./ranks.ts";
import type { Fault, Scene } from "./scene.ts";
import { drawn } from "./schedule.ts";

const wrongMs = 10_000;
const aheadMs = 25 * 60_000;
const jumpsMs = [-30 * 60_000, -20_000, 20_000, 30 * 60_000] as const;

const jump = (name: string, podOf: (scene: Scene, draw: number) => Promise<string>): Fault => ({
  name,
  strike: async (scene, draw) => {
    const pid = await processOf(await podOf(scene, draw));
    await setClock(pid, drawn(jumpsMs, draw, "jump"));
    try {
      await sleep(wrongMs);
    } finally {
      await setClock(pid, 0);
    }
    return { mayGo: nobody, overAt: Date.now() };
  },
});

export const rankClock = jump("a rank's clock wrong", async (scene, draw) => drawn(await scene.ranks(), draw, "rank").uid);
export const operatorClock = jump("the leader's clock wrong", async (scene) => (await scene.leader()).uid);
export const gatewayClock = jump("a gateway's clock wrong", async (scene, draw) => {
  const gateways = (await scene.pods()).filter(({ component }) => component === "gateway");
  return drawn(gateways, draw, "gateway").uid;
});

/** It takes over with that clock, and a pod that leaves then has the grace that it asks for. */
export const leaderAhead: Fault = {
  name: "a leader whose clock is 25 minutes ahead",
  strike: async (scene, draw) => {
    const former = await scene.leader();
    const others = (await scene.operators()).filter(({ uid }) => uid !== former.uid);
    const pids = await Promise.all(others.map(({ uid }) => processOf(uid)));
    const victim = drawn(await scene.ranks(), draw, "rank");
    try {
      for (const pid of pids) await setClock(pid, aheadMs);
      await scene.system.run(["delete", "pod", former.name, "--wait=false"]);
      const leads = async () => ((await scene.leaders()).some(({ uid }) => uid !== former.uid) ? true : undefined);
      await until("another operator to lead", leads, { timeoutMs: 60_000 });
      await scene.moe.kubectl.run(["delete", "pod", victim.name, "--wait=false"]);
      await sleep(wrongMs);
    } finally {
      for (const pid of pids) await setClock(pid, 0);
    }
    return { mayGo: those([victim]), overAt: Date.now() };
  },
};
