// The deployment plane on the in-memory API, with a kubelet and a rebalance plane played here: the world of its tests.

import type { DrainPhase, GatewayView, RankSignals, RebalanceView, ServedTotals } from "../../../operator/deployment/core/world.ts";
import type { Settings } from "../../../operator/deployment/objects/context.ts";
import { createDeploymentPlane, type DeploymentPlane, type DeploymentPlaneOptions } from "../../../operator/deployment/plane.ts";
import type { Deployments, Rebalance, World } from "../../../operator/deployment/ports.ts";
import type { Claims } from "../../../operator/kube/claims.ts";
import { EventRecorder } from "../../../operator/kube/events.ts";
import { Informers } from "../../../operator/kube/informers.ts";
import { type KubeObject, resources } from "../../../operator/kube/kube.ts";
import { FakeKube } from "../kube/fake-kube.ts";
import { until } from "../wait.ts";
import { member, settings, view } from "./deployment.ts";

export const ref = { namespace: "ns", name: "moe" };
export const user = { manager: "user" };

/** What a rank says of its load, by how many serve. */
type Says = (rank: number, serving: number) => RankSignals | undefined;

/** Serves every ready pod, empties every leaving one; a rank's stream ends with its node, unless told otherwise. */
class TestRebalance implements Rebalance {
  streamsOutliveNodes = false;
  readonly #kube: FakeKube;
  readonly #worlds = new Map<string, World>();
  drain: DrainPhase = "Drained";
  #signals: Says = () => undefined;
  #served: (name: string) => ServedTotals | undefined = () => undefined;
  #front: Partial<GatewayView> | undefined;
  forgotten: string[] = [];
  #listener: (at: typeof ref) => void = () => {};
  constructor(kube: FakeKube) {
    this.#kube = kube;
  }
  update(world: World): void {
    const before = this.#worlds.get(world.uid);
    const changed =
      JSON.stringify(world.leaving) !== JSON.stringify(before?.leaving) ||
      JSON.stringify(world.workers) !== JSON.stringify(before?.workers) ||
      world.holdMs !== before?.holdMs;
    this.#worlds.set(world.uid, world);
    if (changed) setImmediate(() => this.#listener(world.ref));
  }
  /** That of the deployment that most tests are about. */
  get world(): World | undefined {
    return [...this.#worlds.values()].find(({ ref: { name } }) => name === ref.name);
  }
  view(uid: string): RebalanceView | undefined {
    const world = this.#worlds.get(uid);
    if (!world) return undefined;
    const serving = world.workers.filter((worker) => worker.ready && !worker.lost);
    const members = serving.map((worker) => {
      const connected = this.streamsOutliveNodes || answers(this.#kube, worker.node);
      const signals = this.#signals(worker.rank, serving.length);
      const served = this.#served(world.ref.name);
      return member(worker.rank, { podUid: worker.uid, bootId: "b", connected, active: connected, signals, served });
    });
    const drains = world.leaving.map((leaving) => ({ rank: leaving.rank, podUid: leaving.podUid, phase: this.drain, message: "" }));
    const holds = (world.holdMs ?? 0) > 0; // what gateways are told they have heard, unless a test says otherwise
    const gateways = this.#front ? [{ name: "moe-gateway-a", idleMs: undefined, wantsRanks: false, holds, ...this.#front }] : [];
    return view({ members, drains, gateways });
  }
  /** What each rank of the deployment of that name says from now on, at each look, that it has served. */
  serves(served: (name: string) => ServedTotals | undefined): void {
    this.#served = served;
    this.#listener(ref);
  }
  /** What the gateway says from now on. */
  fronts(front: Partial<GatewayView>): void {
    this.#front = front;
    this.#listener(ref);
  }
  /** What ranks say of their load from now on. */
  says(signals: Says): void {
    this.#signals = signals;
    this.#listener(ref);
  }
  forget(uid: string): void {
    this.#worlds.delete(uid);
    this.forgotten.push(uid);
  }
  onChange(listener: (at: typeof ref) => void): void {
    this.#listener = listener;
  }
  async close(): Promise<void> {}
}

interface Operator {
  readonly plane: DeploymentPlane<TestRebalance>;
  readonly rebalance: TestRebalance;
  readonly deployments: Deployments;
  stop(): Promise<void>;
}

interface OperatorOptions {
  /** The namespaces that are watched by name; all as one when not given. */
  readonly namespaces?: readonly string[];
  readonly claims?: Claims;
  /** The clock of the plane; the machine's when not given. */
  readonly now?: () => Date;
  /** What this operator is set to other than those before it. */
  readonly changed?: Partial<Settings>;
  /** How pods that download a model answer. */
  readonly ask?: DeploymentPlaneOptions<TestRebalance>["ask"];
}

export async function startOperator(
  kube: FakeKube,
  { namespaces = [], claims, now, changed, ask }: OperatorOptions = {},
): Promise<Operator> {
  const informers = new Informers(namespaces, settings.namespace, { kube, random: () => 0 });
  const events = new EventRecorder({ kube, reportingInstance: "test" });
  const rebalance = new TestRebalance(kube);
  let deployments = {} as Deployments;
  const plane = createDeploymentPlane({
    kube,
    informers,
    events,
    settings: { ...settings, ...changed },
    ...(claims ? { claims } : {}),
    ...(now ? { now } : {}),
    ...(ask ? { ask } : {}),
    rebalance: (other) => {
      deployments = other;
      return rebalance;
    },
  });
  informers.start();
  await informers.refresh();
  plane.controller.start();
  return {
    plane,
    rebalance,
    deployments,
    stop: async () => {
      claims?.close();
      await plane.stop();
      await informers.stop();
    },
  };
}

/** What becomes of a pod that does not start. */
export const crashing = {
  phase: "Running",
  conditions: [{ type: "Ready", status: "False" }],
  containerStatuses: [{ restartCount: 3, state: { waiting: { reason: "CrashLoopBackOff" } }, lastState: {} }],
};

/**
 * Binds pods, makes them Ready, lets gracefully deleted ones go, and watches that no rank is held twice. `fate` is the status of a pod that
 * does not become Ready; undefined for one that does.
 */
export function kubelet(
  kube: FakeKube,
  fate: (pod: any) => object | undefined = () => undefined,
): { problems: string[]; stop: () => void } {
  const problems: string[] = [];
  const turn = () => {
    const holders = new Map<string, string>();
    for (const object of kube.all(resources.pods) as any[]) {
      const at = { namespace: object.metadata.namespace, name: object.metadata.name };
      const rank = object.metadata.labels["enodia.dev/rank"];
      const place = `${object.metadata.labels["enodia.dev/deployment"]} ${rank}`;
      const node = object.spec.nodeName;
      const lost = !answers(kube, node);
      if (!lost) {
        if (holders.has(place)) problems.push(`rank ${place}: ${holders.get(place)} and ${at.name}`);
        holders.set(place, at.name);
      }
      if (lost) continue;
      if (object.metadata.deletionTimestamp !== undefined) kube.remove(resources.pods, at);
      else if (node === undefined) kube.mutate(resources.pods, at, (pod) => Object.assign(pod.spec, { nodeName: `node-${rank}` }));
      else if (object.status === undefined && kube.all(resources.secrets).some((secret) => secret.metadata.name === `${at.name}-tls`)) {
        const well = { phase: "Running", podIP: "10.0.0.1", conditions: [{ type: "Ready", status: "True" }] };
        kube.mutate(resources.pods, at, (pod) => Object.assign(pod, { status: fate(pod) ?? well }));
      }
    }
    for (const object of kube.all(resources.deployments) as any[]) {
      if (object.status?.readyReplicas !== object.spec.replicas) {
        kube.mutate(resources.deployments, { namespace: object.metadata.namespace, name: object.metadata.name }, (one) =>
          Object.assign(one, { status: { readyReplicas: one.spec.replicas, updatedReplicas: one.spec.replicas } }),
        );
      }
    }
  };
  const timer = setInterval(turn, 2);
  return { problems, stop: () => clearInterval(timer) };
}

function answers(kube: FakeKube, node: string | undefined): boolean {
  const found = (kube.all(resources.nodes) as any[]).find((one) => one.metadata.name === node);
  return found?.status.conditions[0].status !== "Unknown";
}

function node(name: string, ready: "True" | "Unknown"): KubeObject {
  return { apiVersion: "v1", kind: "Node", metadata: { name }, status: { conditions: [{ type: "Ready", status: ready }] } };
}

export async function world(): Promise<FakeKube> {
  const kube = new FakeKube();
  for (let i = 0; i < 4; i++) {
    await kube.create(resources.nodes, node(`node-${i}`, "True"), user);
    kube.mutate(resources.nodes, { namespace: "", name: `node-${i}` }, (one) =>
      Object.assign(one, { status: { conditions: [{ type: "Ready", status: "True" }] } }),
    );
  }
  await kube.create(
    resources.persistentVolumeClaims,
    { apiVersion: "v1", kind: "PersistentVolumeClaim", metadata: { ...ref, name: "models" } },
    user,
  );
  await kube.create(
    resources.moeDeployments,
    {
      apiVersion: "enodia.dev/v1alpha1",
      kind: "MoEDeployment",
      metadata: { ...ref },
      spec: { model: { uri: "pvc://models/moe" }, replicas: 3, elasticity: { settle: "1ms" } },
    },
    user,
  );
  return kube;
}

/** Of green deployments, by their names. */
const greens = new RegExp(`^${ref.name}-[0-9a-f]{8}$`);
/** Worker pods but those of green deployments. */
export const pods = (kube: FakeKube): any[] =>
  kube.all(resources.pods).filter(({ metadata: { labels = {} } }) => {
    return labels["enodia.dev/component"] === "worker" && !greens.test(labels["enodia.dev/deployment"] ?? "");
  });
export const ranks = (kube: FakeKube) =>
  pods(kube)
    .map((object) => Number(object.metadata.labels["enodia.dev/rank"]))
    .sort();
export const status = async (kube: FakeKube): Promise<any> => (await kube.get(resources.moeDeployments, ref))?.status ?? {};
export const conditionOf = (from: any, type: string) => from.conditions?.find((one: any) => one.type === type);

export const readyWith = (kube: FakeKube, want: number) => async () => {
  const now = await status(kube);
  return conditionOf(now, "Ready")?.status === "True" && now.availableReplicas === want && pods(kube).length === want;
};

/** A world whose deployment serves with its three ranks; `fate` as for the kubelet. */
export async function serving(fate?: (pod: any) => object | undefined) {
  const kube = await world();
  const life = kubelet(kube, fate);
  const operator = await startOperator(kube);
  await until("3 ranks serve", readyWith(kube, 3));
  const stop = async (): Promise<void> => {
    life.stop();
    await operator.stop();
  };
  return { kube, life, operator, stop };
}
