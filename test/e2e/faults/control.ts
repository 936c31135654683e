// Faults of what ranks do without for a while: operator, NATS, API server and etcd.
import assert from "node:assert/strict";
import { fillEtcdDisk } from "../../cluster/control-disk.ts";
import { controlProcess } from "../../cluster/control-process.ts";
import { holdPackets } from "../../cluster/packet-loss.ts";
import { processOf } from "../../kit/kube/pod-process.ts";
import { sleep } from "../../kit/processes/process.ts";
import { clusterName } from "../world.ts";
import { nobody } from "./pods.ts";
import { standStill } from "./ranks.ts";
import type { Fault } from "./scene.ts";
import { drawn } from "./schedule.ts";

/** etcd's disk is full as long as this. */
const fullMs = 10_000;

/** Longer than the leader keeps its lease without an answer, and long enough for another to take it. */
const heldMs = 20_000;
const bothLooks = 12;
const bothEveryMs = 250;

const over = () => ({ mayGo: nobody, overAt: Date.now() });

export const operatorKilled: Fault = {
  name: "the operator that leads deleted",
  strike: async (scene) => {
    const { name } = await scene.leader();
    await scene.system.run(["delete", "pod", name, "--grace-period=0", "--force", "--wait=false"]);
    return over();
  },
};

export const operatorStopped: Fault = {
  name: "the operator that leads stands still and goes on",
  strike: async (scene) => standStill(await processOf((await scene.leader()).uid)),
};

/** What it sent goes on, as a renewal whose answer comes when another leads. One look that sees two is no proof: they are not of one moment. */
export const answersHeld: Fault = {
  name: "answers to the leader held and all come at once",
  strike: async (scene) => {
    const { node, ip } = await scene.leader();
    const heal = await holdPackets(clusterName, node, ip);
    try {
      await sleep(heldMs);
    } finally {
      await heal();
    }
    const overAt = Date.now();
    for (let look = 0, both = 0; look < bothLooks; look++) {
      both = (await scene.leaders()).length > 1 ? both + 1 : 0;
      assert.ok(both < 2, "two operators lead");
      await sleep(bothEveryMs);
    }
    return { mayGo: nobody, overAt };
  },
};

export const natsKilled: Fault = {
  name: "NATS deleted",
  strike: async (scene) => {
    const { metadata } = drawn(await scene.system.list("pods", "app.kubernetes.io/component=nats"), 0, "NATS pod");
    await scene.system.run(["delete", "pod", metadata.name, "--grace-period=0", "--force", "--wait=false"]);
    return over();
  },
};

/** Its supervisor starts it again after a second. */
const killed = (program: string) => async () => {
  process.kill(controlProcess(clusterName, program), "SIGKILL");
  return over();
};

export const apiServerKilled: Fault = { name: "the API server killed", strike: killed("kube-apiserver") };
export const etcdKilled: Fault = { name: "etcd killed", strike: killed("etcd") };

export const apiServerStopped: Fault = {
  name: "the API server stands still and goes on",
  strike: () => standStill(controlProcess(clusterName, "kube-apiserver")),
};

export const diskFull: Fault = {
  name: "etcd's disk full",
  strike: async () => {
    const free = fillEtcdDisk(clusterName);
    try {
      await sleep(fullMs);
    } finally {
      free();
    }
    return over();
  },
};
