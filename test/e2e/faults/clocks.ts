// A wrong clock: a process whose clock jumps, as it reads it, and jumps back. Nodes of a local cluster share the machine's clock, so the
// jump is made in the process: by the inspector that Node opens on the pod's own loopback when it is asked to by a signal.

import { processOf } from "../../kit/kube/pod-process.ts";
import { sleep } from "../../kit/processes/process.ts";
import { setClock } from "../../kit/processes/process-clock.ts";
import { nobody } from "./pods.ts";
import type { Fault, Scene } from "./scene.ts";
import { drawn } from "./schedule.ts";

const wrongMs = 10_000;
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
