// Faults of what ranks do without for a while: operator, NATS, API server and etcd.
import { fillEtcdDisk } from "../../cluster/control-disk.ts";
import { controlProcess } from "../../cluster/control-process.ts";
import { processOf } from "../../kit/kube/pod-process.ts";
import { sleep } from "../../kit/processes/process.ts";
import { clusterName } from "../world.ts";
import { nobody } from "./pods.ts";
import { standStill } from "./ranks.ts";
import type { Fault } from "./scene.ts";
import { drawn } from "./schedule.ts";

/** etcd's disk is full as long as this. */
const fullMs = 10_000;

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
