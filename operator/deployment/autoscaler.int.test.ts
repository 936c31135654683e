// The autoscaler on a real API server, which keeps who has replicas: beside an autoscaler of somebody else's, a GitOps tool that applies,
// and a person with kubectl. Pods are made ready here as a kubelet would, and ranks say what the test has them say.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { isDeepStrictEqual } from "node:util";
import { AppError } from "../../crds/common.ts";
import { down } from "../../test/cluster/cluster.ts";
import { type ControlPlane, controlPlane } from "../../test/integration/control-plane.ts";
import { startDeploymentPlane } from "../../test/integration/deployment-plane.ts";
import { signals } from "../../test/kit/deployment/autoscale.ts";
import { member, view } from "../../test/kit/deployment/deployment.ts";
import { until as poll, sleep } from "../../test/kit/processes/process.ts";
import { type Kube, type KubeObject, refOf, resources } from "../kube/kube.ts";
import { managersOf } from "../kube/managed-fields.ts";
import type { World } from "./ports.ts";

const name = "autoscale-int";
const namespace = "autoscaling";
const system = "autoscaling-system";
const manager = { manager: "test" };
const apiVersion = "enodia.dev/v1alpha1";
const autoscale = {
  min: 2,
  max: 6,
  metrics: [{ name: "queuedTokensPerRank", target: 100 }],
  behaviour: { scaleUp: { period: "1ms" }, scaleDown: { stabilizationWindow: "0s", period: "1ms" } },
};
let kube: Kube;
let kubectl: ControlPlane["kubectl"];
let stop = async (): Promise<void> => {};
/** Queued tokens in all, by deployment. */
const load = new Map<string, number>();
/** What the gateway says, by deployment; it holds requests once it is told to. */
const fronts = new Map<string, { readonly idleMs: number; readonly wantsRanks: boolean }>();

before(
  async () => {
    ({ kube, kubectl } = await controlPlane(name, 0));
    for (const one of [namespace, system])
      await kube.create(resources.namespaces, { apiVersion: "v1", kind: "Namespace", metadata: { name: one } }, manager);
    await startPlane();
  },
  { timeout: 600_000 },
);
after(async () => {
  await stop();
  await down(name);
});

async function startPlane(): Promise<void> {
  const worlds = new Map<string, World>();
  const began = Date.now();
  // Its sessions are open from the begin.
  const now = () => new Date(Date.now() + (Date.now() - began > 1_000 ? 20_000 : 0));
  stop = await startDeploymentPlane(kube, namespace, {
    system,
    now,
    rebalance: () => ({
      update: (world) => void worlds.set(world.uid, world),
      view: (uid) => {
        const { workers = [], ref, leaving = [], holdMs = 0 } = worlds.get(uid) ?? {};
        const serving = workers.filter((worker) => worker.ready && !leaving.some(({ podUid }) => podUid === worker.uid));
        const each = signals((load.get(ref?.name ?? "") ?? 0) / Math.max(1, serving.length));
        const members = workers.map((worker) => member(worker.rank, { podUid: worker.uid, signals: each }));
        const drains = leaving.map((one) => ({ rank: one.rank, podUid: one.podUid, phase: "Drained" as const, message: "" }));
        const front = fronts.get(ref?.name ?? "");
        return view({ members, drains, gateways: front ? [{ name: "gateway", holds: holdMs > 0, ...front }] : [] });
      },
      forget() {},
      onChange() {},
      close: async () => {},
    }),
  });
}

const well = { phase: "Running", conditions: [{ type: "Ready", status: "True", lastTransitionTime: new Date().toISOString() }] };

/** Plays the kubelet once. */
async function turn(): Promise<void> {
  for (const pod of (await kube.list(resources.pods, { namespace, labelSelector: "enodia.dev/component in (worker, gateway)" })).items) {
    if (pod.metadata.deletionTimestamp) await kube.delete(resources.pods, refOf(pod), { graceSeconds: 0 });
    else if ((pod.status as any)?.phase === "Pending")
      await kube.updateStatus(resources.pods, { ...pod, status: well }, manager).catch(() => {});
  }
}
const until = (what: string, holds: () => Promise<boolean>) =>
  poll(
    what,
    async () => {
      await turn();
      return (await holds()) || undefined;
    },
    // A figure alone is written once a minute of a deployment that is calm.
    { timeoutMs: 90_000, everyMs: 100 },
  );

function deployment(called: string, spec: object = {}): { readonly object: KubeObject; readonly ref: { namespace: string; name: string } } {
  const ref = { namespace, name: called };
  const elasticity = { settle: "1ms", autoscale };
  return {
    ref,
    object: { apiVersion, kind: "MoEDeployment", metadata: ref, spec: { model: { uri: "pvc://models/x" }, elasticity, ...spec } },
  };
}
const live = async (ref: { namespace: string; name: string }): Promise<any> => kube.get(resources.moeDeployments, ref);
const replicas = async (ref: { namespace: string; name: string }): Promise<number> => (await live(ref)).spec.replicas;
const scaling = async (ref: { namespace: string; name: string }): Promise<any> =>
  (await live(ref)).status?.conditions?.find((one: any) => one.type === "ScalingActive");
const owners = async (ref: { namespace: string; name: string }) =>
  managersOf(await live(ref), ["spec", "replicas"]).map(({ manager, operation }) => `${operation} ${manager}`);

const ranks = async ({ name }: { name: string }) =>
  (await kube.list(resources.pods, { namespace, labelSelector: `enodia.dev/deployment=${name},enodia.dev/component=worker` })).items
    .map(({ metadata: { uid } }) => uid)
    .sort();

const refused: Readonly<Record<string, { readonly spec: object; readonly want: RegExp }>> = {
  "a least above the most": { spec: { elasticity: { autoscale: { ...autoscale, min: 7 } } }, want: /min must not be above max/ },
  "no metric": { spec: { elasticity: { autoscale: { ...autoscale, metrics: [] } } }, want: /metrics.*should have at least 1 items/ },
  "a metric that there is not": {
    spec: { elasticity: { autoscale: { ...autoscale, metrics: [{ name: "cpu", target: 1 }] } } },
    want: /Unsupported value: "cpu".*"queuedTokensPerRank", "kvUse", "tokensPerSecondPerRank"/,
  },
  "a metric twice": {
    spec: { elasticity: { autoscale: { ...autoscale, metrics: [...autoscale.metrics, ...autoscale.metrics] } } },
    want: /metrics\[1\]: Duplicate value/,
  },
  "more than the whole attention cache": {
    spec: { elasticity: { autoscale: { ...autoscale, metrics: [{ name: "kvUse", target: 101 }] } } },
    want: /kvUse is a percentage: at most 100/,
  },
  "a window of two hours": {
    spec: { elasticity: { autoscale: { ...autoscale, behaviour: { scaleDown: { stabilizationWindow: "2h" } } } } },
    want: /stabilizationWindow must be at most 1h/,
  },
  "zero ranks beside a least of one": {
    spec: { replicas: 2, elasticity: { minReplicas: 1, autoscale: { ...autoscale, scaleToZero: {} } } },
    want: /scaleToZero sets replicas to 0: leave minReplicas out/,
  },
  "a request that is to wait for longer than any may take": {
    spec: { elasticity: { autoscale: { ...autoscale, scaleToZero: { holdTimeout: "11m" } } } },
    want: /holdTimeout must be at most 10m/,
  },
  "a range beyond that of replicas": {
    spec: { replicas: 2, elasticity: { maxReplicas: 5, autoscale } },
    want: /autoscale\.min and autoscale\.max must lie within minReplicas and maxReplicas/,
  },
  "fewer than have to serve": {
    spec: { elasticity: { autoscale }, failurePolicy: { minServingReplicas: 3 } },
    want: /minServingReplicas must not be above elasticity\.autoscale\.min/,
  },
};
for (const [sentence, { spec, want }] of Object.entries(refused))
  test(`the server refuses ${sentence} and says what to do`, async () => {
    await assert.rejects(kube.create(resources.moeDeployments, deployment("refused", spec).object, manager), (error: unknown) => {
      assert.ok(error instanceof AppError && error.code === "Invalid", String(error));
      assert.match(error.message, want);
      return true;
    });
  });

test("autoscaling that is asked for with no more than it needs has its defaults", async () => {
  const elasticity = { autoscale: { max: 3, metrics: [{ name: "kvUse", target: 70 }] } };
  const { object, ref } = deployment("defaults", { suspend: true, elasticity });
  const made: any = await kube.create(resources.moeDeployments, object, manager);
  assert.deepEqual(made.spec.elasticity.autoscale, {
    ...{ min: 1, max: 3, metrics: [{ name: "kvUse", target: 70 }] },
    behaviour: {
      scaleUp: { stabilizationWindow: "0s", maxRanks: 4, period: "15s" },
      scaleDown: { stabilizationWindow: "5m", maxRanks: 1, period: "1m" },
    },
  });
  await kube.delete(resources.moeDeployments, ref);
});

test("replicas are set by /scale under a name of their own, and kubectl get shows by what", { timeout: 400_000 }, async () => {
  const { object, ref } = deployment("load");
  load.set("load", 300);
  await kube.create(resources.moeDeployments, object, manager);
  await until("more by load", async () => (await replicas(ref)) === 3);
  assert.deepEqual(await owners(ref), ["Update enodia-autoscaler"]);
  // While pods come, what is asked for may be one rank too many for a moment: without a window it goes at once.
  await until("it is on its target of 3, with the figures", async () => {
    const { spec, status } = await live(ref);
    const reason = status?.conditions?.find((one: any) => one.type === "ScalingActive")?.reason;
    const is = [spec.replicas, status?.autoscale?.lastScale?.to, reason, status?.autoscale?.progress];
    return isDeepStrictEqual(is, [3, 3, "AtTarget", "queuedTokensPerRank 100/100"]);
  });
  assert.match(await kubectl("-n", namespace, "get", "moed", "load", "-o", "wide"), /AUTOSCALE[\s\S]*queuedTokensPerRank 100\/100/);
  const { from, to, time } = (await live(ref)).status.autoscale.lastScale;
  assert.ok(from !== to && Date.parse(time) > 0, `${from} -> ${to} at ${time}`);
  await kube.delete(resources.moeDeployments, ref);
});

test("an autoscaler of somebody else's and a GitOps tool at once: one write of ours at most, then both are named", {
  timeout: 400_000,
}, async () => {
  const { object, ref } = deployment("contested", { replicas: 3 });
  load.set("contested", 300);
  await kube.create(resources.moeDeployments, object, manager);
  await until(
    "3 ranks serve",
    async () => (await live(ref)).status?.availableReplicas === 3 && (await scaling(ref))?.reason === "AtTarget",
  );
  load.set("contested", 570);
  await until("ours", async () => (await owners(ref)).join() === "Update enodia-autoscaler");
  await until("6 ranks serve", async () => (await live(ref)).status?.availableReplicas === 6);
  const hpa = async (to: number) => {
    const { resourceVersion = "" } = (await live(ref)).metadata;
    await kube
      .scale(resources.moeDeployments, ref, { replicas: to, resourceVersion }, { manager: "kube-controller-manager" })
      .catch(() => {});
  };
  await until("the HPA has written", async () => {
    await hpa(4);
    return (await replicas(ref)) === 4;
  });
  await until("it says so", async () => (await scaling(ref))?.reason === "ReplicasTaken");
  assert.match((await scaling(ref)).message, /"kube-controller-manager" has set spec\.replicas to 4 since the autoscaler set 6 at \S+Z/);
  const writes: string[] = [];
  const end = Date.now() + 6_000;
  for (let to = 4; Date.now() < end; to = to === 4 ? 5 : 4) {
    await hpa(to);
    await turn();
    await sleep(200);
    writes.push(...(await owners(ref)));
  }
  assert.ok(!writes.includes("Update enodia-autoscaler"), writes.join());
  // GitOps: the field is applied, and comes back whatever anybody sets.
  await kube.apply(resources.moeDeployments, { apiVersion, kind: object.kind, metadata: ref, spec: { replicas: 3 } } as KubeObject, {
    manager: "argocd-controller",
    force: true,
  });
  await until("both are known", async () => (await scaling(ref))?.reason === "ReplicasApplied");
  assert.match((await scaling(ref)).message, /"argocd-controller" applies spec\.replicas, 3 now, and would set it back/);
  assert.equal((await scaling(ref)).status, "False");
  // It leaves the field out, as the message asks for: replicas fall to their default, and the ranks that are there stay.
  await until("3 ranks serve", async () => (await live(ref)).status?.availableReplicas === 3);
  load.set("contested", 300);
  const there = await ranks(ref);
  await kube.apply(resources.moeDeployments, { apiVersion, kind: object.kind, metadata: ref, spec: { suspend: false } } as KubeObject, {
    manager: "argocd-controller",
    force: true,
  });
  await until("ours again", async () => (await owners(ref)).includes("Update enodia-autoscaler") && (await replicas(ref)) === 3);
  assert.deepEqual(await ranks(ref), there, "and none of them has gone meanwhile");
  await kube.delete(resources.moeDeployments, ref);
});

test("kubectl scale has the last word until it is handed back by the command that the condition names", { timeout: 400_000 }, async () => {
  const { object, ref } = deployment("by-hand");
  load.set("by-hand", 900);
  await kube.create(resources.moeDeployments, object, manager);
  await until("the most by load", async () => (await replicas(ref)) === 6);
  await kubectl("-n", namespace, "scale", "moed", "by-hand", "--replicas=3");
  await until("it says so", async () => (await scaling(ref))?.reason === "ReplicasTaken");
  const { message } = await scaling(ref);
  const [, command = ""] = /handed back: kubectl (annotate \S.*)$/.exec(message) ?? [];
  assert.equal(await replicas(ref), 3);
  await kubectl(...command.split(" "));
  await until("it goes on", async () => (await replicas(ref)) === 6);
  assert.deepEqual(await owners(ref), ["Update enodia-autoscaler"]);
  await kube.delete(resources.moeDeployments, ref);
});

test("zero by /scale and back with a request; a zero that somebody applies is obeyed", { timeout: 400_000 }, async () => {
  const elasticity = { settle: "1ms", autoscale: { ...autoscale, scaleToZero: { idleAfter: "1s" } } };
  const { object, ref } = deployment("sleeps", { replicas: undefined, elasticity });
  fronts.set("sleeps", { idleMs: 0, wantsRanks: false });
  await kube.create(resources.moeDeployments, object, manager);
  await until("2 ranks serve", async () => (await live(ref)).status?.availableReplicas === 2);
  fronts.set("sleeps", { idleMs: 3_600_000, wantsRanks: false });
  await until("nobody is there", async () => (await replicas(ref)) === 0 && (await ranks(ref)).length === 0);
  assert.deepEqual(await owners(ref), ["Update enodia-autoscaler"]);
  await until("it says so", async () => (await scaling(ref))?.reason === "ScaledToZero" && (await scaling(ref))?.status === "True");
  assert.match(await kubectl("-n", namespace, "get", "moed", "sleeps", "-o", "wide"), /at zero since \S+Z/);
  fronts.set("sleeps", { idleMs: 0, wantsRanks: true });
  await until("2 ranks serve again", async () => (await replicas(ref)) === 2 && (await live(ref)).status?.availableReplicas === 2);
  assert.deepEqual(await owners(ref), ["Update enodia-autoscaler"]);
  const by = { manager: "argocd-controller", force: true };
  await kube.apply(resources.moeDeployments, { apiVersion, kind: object.kind, metadata: ref, spec: { replicas: 0 } } as KubeObject, by);
  fronts.set("sleeps", { idleMs: 0, wantsRanks: true });
  await until("nobody is there", async () => (await ranks(ref)).length === 0);
  await sleep(6_000); // longer than it is between two looks
  assert.deepEqual(
    [await replicas(ref), (await live(ref)).status.conditions.find((one: any) => one.type === "Ready").status],
    [0, "False"],
  );
  await kube.delete(resources.moeDeployments, ref);
});
