// The deployment plane on the in-memory API, with a kubelet and a rebalance plane played here: the world of its tests.
import assert from "node:assert/strict";
import type { TestContext } from "node:test";
import { AppError } from "../../../crds/common.ts";
import type { DrainPhase, GatewayView, RankSignals, RebalanceView, ServedTotals } from "../../../operator/deployment/core/world.ts";
import { createDeploymentPlane, type DeploymentPlane, type DeploymentPlaneOptions } from "../../../operator/deployment/plane.ts";
import type { Deployments, Rebalance, World } from "../../../operator/deployment/ports.ts";
import type { Claims } from "../../../operator/kube/claims.ts";
import { EventRecorder } from "../../../operator/kube/events.ts";
import { Informers } from "../../../operator/kube/informers.ts";
import { type KubeObject, type Resource, resources } from "../../../operator/kube/kube.ts";
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

export interface OperatorOptions {
  /** The namespaces that are watched by name; all as one when not given. */
  readonly namespaces?: readonly string[];
  readonly claims?: Claims;
  /** The clock of the plane; the machine's when not given. */
  readonly now?: () => Date;
  /** What this operator is set to other than those before it. */
  readonly changed?: Partial<DeploymentPlaneOptions<TestRebalance>["settings"]>;
  /** How pods that download a model answer. */
  readonly ask?: DeploymentPlaneOptions<TestRebalance>["ask"];
}

async function startOperator(kube: FakeKube, { namespaces = [], claims, now, changed, ask }: OperatorOptions = {}): Promise<Operator> {
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

/** The status of a pod that does not become Ready; undefined for one that does. */
type Fate = (pod: any) => object | undefined;
interface Kubelet {
  readonly problems: string[];
  stop(): void;
}

/** Binds pods, makes them Ready, lets gracefully deleted ones go, and watches that no rank is held twice. */
function kubelet(kube: FakeKube, fate: Fate = () => undefined): Kubelet {
  const problems: string[] = [];
  const turn = () => {
    const holders = new Map<string, string>();
    for (const object of kube.all(resources.pods) as any[]) {
      const at = { namespace: object.metadata.namespace, name: object.metadata.name };
      const rank = object.metadata.labels["enodia.dev/rank"];
      const owner = object.metadata.ownerReferences?.[0]?.uid;
      const place = `${owner} ${rank}`;
      const node = object.spec.nodeName;
      const lost = !answers(kube, node);
      const certified = kube.all(resources.secrets).some((secret) => secret.metadata.name === `${at.name}-tls`);
      const held = object.spec.schedulingGates?.length > 0;
      if (!lost && owner !== undefined && object.status?.phase !== "Failed") {
        if (holders.has(place)) problems.push(`rank ${place}: ${holders.get(place)} and ${at.name}`);
        holders.set(place, at.name);
      }
      if (lost) continue;
      if (object.metadata.deletionTimestamp !== undefined) kube.remove(resources.pods, at);
      else if (node === undefined && !held) {
        const ours = object.metadata.ownerReferences?.[0]?.kind === "MoEDeployment";
        if (ours && !certified) problems.push(`${at.name} gets a node before its Secret is there`);
        kube.mutate(resources.pods, at, (pod) => Object.assign(pod.spec, { nodeName: `node-${rank}` }));
      } else if (node !== undefined && object.status === undefined && certified) {
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

type Kind = keyof typeof resources;
/** What a condition has to be: a status, a reason, or words of its message. */
type Want = string | RegExp;
/** Of green deployments, by their names. */
const greens = new RegExp(`^${ref.name}-[0-9a-f]{8}$`);
const statuses = ["True", "False", "Unknown"];

/** The folder of the model that a rank's pod or a template of gateways opens. */
export const modelFolder = (object: any): string =>
  object.spec.containers[0].env.find(({ name }: { name: string }) => name === "ENODIA_MODEL_PATH")?.value ??
  object.metadata.annotations["enodia.dev/model-place"].replace(/^[^/]*/, "");
export const conditionOf = (from: any, type: string) => from?.conditions?.find((one: any) => one.type === type);
/** Of a condition or of none. */
const suits = (found: any, wants: readonly Want[]): boolean =>
  found !== undefined &&
  wants.every((want) =>
    typeof want === "string" ? found[statuses.includes(want) ? "status" : "reason"] === want : want.test(found.message),
  );

/** A cluster with the deployment `moe`, its kubelet and, once it is started, its operator. All of it ends with the test. */
export class MoeWorld {
  readonly kube = new FakeKube();
  /** How far the clock of an operator is ahead that starts while this is given; others have the machine's, and count its ticks. */
  aheadMs: number | undefined;
  kubelet: Kubelet = { problems: [], stop: () => {} };
  #operator: Operator | undefined;

  /** Has a kubelet from here on; undefined for pods that become Ready. */
  live(fate?: Fate): void {
    this.kubelet.stop();
    this.kubelet = kubelet(this.kube, fate);
  }
  /** Another operator, in the place of the one before. */
  async start(options: OperatorOptions = {}): Promise<Operator> {
    await this.stop();
    this.#operator = await this.operatorBeside(options);
    return this.#operator;
  }
  operatorBeside(options: OperatorOptions): Promise<Operator> {
    const now = () => new Date(Date.now() + (this.aheadMs ?? 0));
    return startOperator(this.kube, { ...(this.aheadMs === undefined ? {} : { now }), ...options });
  }
  async stop(): Promise<void> {
    await this.#operator?.stop();
    this.#operator = undefined;
  }
  async end(): Promise<void> {
    this.kubelet.stop();
    await this.stop();
    assert.deepEqual(this.kubelet.problems, []);
  }
  get operator(): Operator {
    if (!this.#operator) throw new Error("no operator runs");
    return this.#operator;
  }
  get rebalance(): TestRebalance {
    return this.operator.rebalance;
  }
  /** Has the operator look again. */
  wake = (): void => this.operator.plane.controller.queue.add(`${ref.namespace}/${ref.name}`);

  create = (spec: object = {}, at = ref): Promise<KubeObject> =>
    this.make(
      "moeDeployments",
      at.name,
      { spec: { model: { uri: "pvc://models/moe" }, replicas: 3, elasticity: { settle: "1ms" }, ...spec } },
      at,
    );
  /** An object of somebody else. */
  make(
    kind: Kind,
    name: string,
    { metadata, ...more }: { metadata?: object; [key: string]: unknown } = {},
    { namespace } = ref,
  ): Promise<KubeObject> {
    const { apiVersion, kind: of } = resources[kind];
    return this.kube.create(
      resources[kind],
      { apiVersion, kind: of, metadata: { ...(resources[kind].namespaced ? { namespace } : {}), name, ...metadata }, ...more },
      user,
    );
  }
  patch = (patch: object, by = user): Promise<KubeObject> => this.kube.patch(resources.moeDeployments, ref, patch, by);
  change = (spec: object, by = user): Promise<KubeObject> => this.patch({ spec }, by);
  all = (kind: Kind): any[] => this.kube.all(resources[kind]);
  get = (kind: Kind, name: string = ref.name): Promise<any> => this.kube.get(resources[kind], { ...ref, name });
  remove = (kind: Kind, name: string = ref.name): void => this.kube.remove(resources[kind], { ...ref, name });
  mutate = (kind: Kind, name: string, change: (one: any) => unknown, by: { manager?: string; subresource?: string } = {}): void =>
    this.kube.mutate(resources[kind], { ...ref, name }, (one) => void change(one), by);
  node = (name: string, ready: "True" | "Unknown"): void =>
    this.mutate("nodes", name, (one) => Object.assign(one.status.conditions[0], { status: ready }));
  /** Refuses what is made or written so; the text of a refusal, or none. */
  refuse(says: (kind: string, object: KubeObject) => string | false | undefined): void {
    this.kube.admit = (resource: Resource, object: KubeObject) => {
      const message = says(resource.kind, object);
      if (message) throw new AppError(message, { code: "Forbidden", retry: "backoff" });
    };
  }

  /** Worker pods but those of green deployments. */
  get pods(): any[] {
    return this.all("pods").filter(({ metadata: { labels = {} } }) => {
      return labels["enodia.dev/component"] === "worker" && !greens.test(labels["enodia.dev/deployment"] ?? "");
    });
  }
  get ranks(): number[] {
    return this.pods.map(({ metadata }) => Number(metadata.labels["enodia.dev/rank"])).sort();
  }
  get uids(): string[] {
    return this.pods.map(({ metadata }) => metadata.uid).sort();
  }
  podOf = (rank: number): any => this.pods.find(({ metadata }) => metadata.labels["enodia.dev/rank"] === String(rank));
  /** Takes the pod of a rank away, as a person or a broken node does. */
  lose = (rank: number): void => this.remove("pods", this.podOf(rank).metadata.name);
  events = (reason: string): any[] => this.all("events").filter((one) => one.reason === reason);

  status = async (): Promise<any> => (await this.get("moeDeployments"))?.status ?? {};
  condition = async (type: string): Promise<any> => conditionOf(await this.status(), type);
  is = async (type: string, ...want: Want[]): Promise<boolean> => suits(await this.condition(type), want);
  /** Waits until the condition is so. */
  comes = (type: string, ...want: Want[]): Promise<void> => until(`${type} is ${want.join(", ")}`, () => this.is(type, ...want));
  async check(type: string, ...want: Want[]): Promise<void> {
    const found = await this.condition(type);
    assert.ok(suits(found, want), `${type} is ${want.join(", ")}, not ${JSON.stringify(found)}`);
  }
  phase = async (): Promise<string | undefined> => (await this.status()).rollout?.phase;
  /** Waits until a rollout is in this phase. */
  reaches = (phase: string): Promise<void> => until(`the rollout is ${phase}`, async () => (await this.phase()) === phase);
  /** So many ranks are counted, and no pod is there beside them. */
  counts = async (ranks: number): Promise<boolean> => (await this.status()).availableReplicas === ranks && this.pods.length === ranks;
  ready = async (ranks: number): Promise<boolean> => (await this.counts(ranks)) && this.is("Ready", "True");
  /** Waits until all of so many ranks serve. */
  serves = (ranks: number): Promise<void> => until(`${ranks} ranks serve`, () => this.ready(ranks));
}

/** A deployment of three ranks on four nodes that no operator has seen; `fate` as for the kubelet. */
export async function world(t: TestContext, spec: object = {}, fate?: Fate): Promise<MoeWorld> {
  const moe = new MoeWorld();
  t.after(() => moe.end());
  for (let i = 0; i < 4; i++) {
    await moe.make("nodes", `node-${i}`);
    moe.mutate("nodes", `node-${i}`, (one) => Object.assign(one, { status: { conditions: [{ type: "Ready", status: "True" }] } }));
  }
  await moe.make("persistentVolumeClaims", "models");
  await moe.create(spec);
  moe.live(fate);
  return moe;
}

/** A deployment that serves with its three ranks. */
export async function serving(t: TestContext, fate?: Fate, spec: object = {}): Promise<MoeWorld> {
  const moe = await world(t, spec, fate);
  await moe.start();
  await moe.serves(3);
  return moe;
}

/** A deployment that serves with its three ranks and whose first rollout has ended. */
export async function whole(t: TestContext, fate?: Fate, spec: object = {}): Promise<MoeWorld> {
  const moe = await serving(t, fate, spec);
  await moe.reaches("Complete");
  return moe;
}
