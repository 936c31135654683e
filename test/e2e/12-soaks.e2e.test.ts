// Troubles that last: connections that say nothing are held to every health port for minutes, and the API server is away for a
// quarter of an hour. No pod becomes unready, no container restarts, and the operator goes on by itself.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { ports } from "../../crds/common.ts";
import { controlProcess } from "../cluster/control-process.ts";
import { kubectlOf, systemNamespace, type Target, waitReady, workerPods } from "../kit/deployment/product.ts";
import { startLoad } from "../kit/gateway/traffic-load.ts";
import type { Kubectl } from "../kit/kube/kubectl.ts";
import { type HeldSockets, holdSockets } from "../kit/network/held-sockets.ts";
import { sleep, until } from "../kit/processes/process.ts";
import { explainFailures } from "./diagnose.ts";
import { clusterName, type Deployed, deploy, openWorld, remove, smolMoe } from "./world.ts";

const model = "patient";
const socketsHeld = 500;
/** Twelve ports and 500 clients of each: 600 connections in a second, which the machine of all nodes stands. */
const reopenMs = 10_000;
const heldForMs = 3 * 60_000;
const lookEveryMs = 1_000;
const outageMs = 15 * 60_000;
const probeTimeoutMs = 2_000;

let target: Target;
let moe: Deployed;
let system: Kubectl;

explainFailures(() => moe);
before(async () => {
  target = await openWorld();
  system = kubectlOf(target, systemNamespace);
  moe = await deploy(target, "e2e-soaks", smolMoe(model));
});
after(async () => {
  if (moe) await remove(moe);
});

interface Pod {
  readonly name: string;
  readonly ip: string;
  readonly ready: boolean;
  readonly restarts: number;
}

/** All pods of the deployment, and the operator's. */
async function allPods(): Promise<Pod[]> {
  const lists = [moe.kubectl.list("pods", `enodia.dev/deployment=${model}`), system.list("pods", "app.kubernetes.io/component=operator")];
  return (await Promise.all(lists)).flat().map(({ metadata, status }) => ({
    name: metadata.name,
    ip: status.podIP,
    ready: status.conditions.some((one: { type: string; status: string }) => one.type === "Ready" && one.status === "True"),
    restarts: status.containerStatuses?.[0]?.restartCount ?? 0,
  }));
}

/** Pods that Kubernetes itself evicts: to it the nodes were silent too, and it may judge them before they are heard again. */
async function evictedPods(): Promise<string[]> {
  const lists = await Promise.all([moe.kubectl, system].map((kubectl) => kubectl.list("events")));
  return lists.flat().flatMap(({ reason, involvedObject }) => (reason === "TaintManagerEviction" ? [involvedObject.name] : []));
}

const restartsOf = (pods: readonly Pod[]): Record<string, number> => Object.fromEntries(pods.map(({ name, restarts }) => [name, restarts]));

test("500 connections held to each health port for 3 minutes: no pod unready, no container restarted", async () => {
  const before = await allPods();
  assert.ok(before.length >= 6 && before.every(({ ready }) => ready), "3 workers, a gateway and 2 operators are ready");
  const held: HeldSockets[] = [];
  try {
    for (const { ip } of before)
      for (const port of [ports.probes, ports.metrics]) held.push(holdSockets(ip, port, { count: socketsHeld, reopenMs }));
    const end = Date.now() + heldForMs;
    while (Date.now() < end) {
      const unready = (await allPods()).filter(({ ready }) => !ready).map(({ name }) => name);
      assert.deepEqual(unready, [], `unready ${Math.round((heldForMs - end + Date.now()) / 1000)} s after the first connection`);
      await sleep(lookEveryMs);
    }
  } finally {
    for (const one of held) one.close();
  }
  assert.deepEqual(restartsOf(await allPods()), restartsOf(before));
});

test("the API server away for 15 minutes: the operator stays live, no container restarts, and it repairs again by itself", async () => {
  const pods = await allPods();
  const operators = (await system.list("pods", "app.kubernetes.io/component=operator")).map(({ status }) => status.podIP as string);
  const url = await moe.url();
  const load = startLoad({ url: () => url, model, clients: 2, topic: "code" });
  const server = controlProcess(clusterName, "kube-apiserver");
  process.kill(server, "SIGSTOP");
  try {
    const end = Date.now() + outageMs;
    while (Date.now() < end) {
      for (const ip of operators) {
        const answer = await fetch(`http://${ip}:${ports.probes}/healthz`, { signal: AbortSignal.timeout(probeTimeoutMs) });
        assert.equal(answer.status, 200, await answer.text());
      }
      await sleep(10 * lookEveryMs);
    }
  } finally {
    process.kill(server, "SIGCONT");
  }
  await until(
    "all pods to be ready",
    async () => {
      const now = await allPods().catch(() => []);
      return now.length >= pods.length && now.every(({ ready }) => ready) ? true : undefined;
    },
    { timeoutMs: 180_000 },
  );
  const now = await allPods();
  const evicted = await evictedPods();
  const gone = pods.filter(({ name }) => !now.some((pod) => pod.name === name)).map(({ name }) => name);
  assert.deepEqual(
    gone.filter((name) => !evicted.includes(name)),
    [],
    "nobody but Kubernetes ended a pod",
  );
  const before = restartsOf(pods);
  assert.deepEqual(restartsOf(now), Object.fromEntries(now.map(({ name }) => [name, before[name] ?? 0])));
  const [victim] = await workerPods(moe.kubectl, model);
  await moe.kubectl.run(["delete", "pod", victim?.metadata.name ?? "", "--grace-period=0", "--force", "--wait=false"]);
  await sleep(lookEveryMs);
  await waitReady(moe.kubectl, model);
  await load.stop();
  assert.equal(load.counts.failed, 0, load.errors[0]);
});
