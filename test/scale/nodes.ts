// Nodes of a simulated fleet on a real API server: Node objects with their leases, and one kubelet for all of them, which starts a process
// for each pod that the scheduler binds, tells its state in the pod's status as a kubelet does, and ends it after its grace. It runs no
// container: what a pod's process is, says who makes the fleet (pods.ts).

import { type Controller, createController, type Outcome } from "../../operator/kube/controller.ts";
import { hasCode } from "../../operator/kube/errors.ts";
import { Informer } from "../../operator/kube/informer.ts";
import { type Kube, type KubeObject, keyOf, parseKey, refOf, resources } from "../../operator/kube/kube.ts";

/** The kubelet's workers, each at one pod; writes that wait for the API server are all that they do. */
const workers = 32;
const resyncMs = 60_000;
const leaseMs = 10_000;
/** Leases and Node objects that are written at once. */
const writesMax = 16;
/** A pod whose Secrets are not there yet is looked at again after this, as a kubelet does for a mount. */
const mountMs = 500;
/** The readiness of all pods is looked at this often: the period of their probes. */
const probeMs = 1_000;
const manager = { manager: "simulated-kubelet" };
const leaseNamespace = "kube-node-lease";

/** A process of a pod. */
export interface PodProcess {
  /** What /readyz answers. */
  ready(): boolean;
  /** Ends it within so many milliseconds. */
  stop(graceMs: number): Promise<void>;
}

export interface PodStart {
  readonly pod: KubeObject;
  readonly ip: string;
  /** Data of a Secret of the pod's namespace; undefined where it is not there. */
  secret(name: string): Readonly<Record<string, string>> | undefined;
}

export type StartPod = (start: PodStart) => Promise<PodProcess>;

interface NodesOptions {
  readonly kube: Kube;
  readonly count: number;
  readonly podsPerNode: number;
  readonly start: StartPod;
  /** First two numbers of the pods' addresses, of the loopback network. */
  readonly network: string;
  readonly onError: (error: unknown) => void;
}

interface Running {
  readonly ip: string;
  process: PodProcess | undefined;
  stopped: "no" | "ending" | "ended";
  /** The state that was written last. */
  told: string;
}

type Volume = { readonly secret?: { readonly secretName: string; readonly optional?: boolean } };

export class SimulatedNodes {
  readonly #options: NodesOptions;
  readonly #pods: Informer;
  readonly #secrets: Informer;
  readonly #nodes: Informer;
  readonly #running = new Map<string, Running>();
  readonly #keys = new Map<string, string>();
  readonly #controller: Controller;
  #lastAddress = 0;
  #leases: NodeJS.Timeout | undefined;
  #probes: NodeJS.Timeout | undefined;
  #writes = 0;
  #count = 0;
  /** Nodes that were switched off. */
  readonly #off = new Set<string>();

  constructor(options: NodesOptions) {
    this.#options = options;
    const deps = { kube: options.kube, onError: options.onError };
    this.#pods = new Informer(resources.pods, {}, deps);
    this.#secrets = new Informer(resources.secrets, {}, deps);
    this.#nodes = new Informer(resources.nodes, {}, deps);
    this.#controller = createController({
      name: "simulated-kubelet",
      workers,
      resyncMs,
      keys: () => this.#pods.list(isBound).map((pod) => keyOf(refOf(pod))),
      reconcile: (key) => this.#reconcile(key),
      observe: () => (_result, _seconds, error) => {
        if (error && error.code !== "Conflict") options.onError(error);
      },
    });
  }

  /** Requests that the nodes have written with, leases included. */
  get writes(): number {
    return this.#writes;
  }

  async start(): Promise<void> {
    await this.add(this.#options.count);
    this.#pods.onChange((pod) => isBound(pod) && this.#controller.queue.add(keyOf(refOf(pod))));
    this.#pods.start();
    this.#secrets.start();
    this.#nodes.start();
    await Promise.all([this.#pods.refresh(), this.#secrets.refresh(), this.#nodes.refresh()]);
    this.#controller.start();
    this.#renew();
    this.#probes = setInterval(() => this.#probe(), probeMs);
  }

  /** So many nodes more. */
  async add(count: number): Promise<void> {
    const from = this.#count;
    this.#count += count;
    await each(count, (index) => this.#makeNode(from + index));
  }

  /** What a power cut does: the processes of its pods end at once, and nobody is told. */
  async off(node: string): Promise<void> {
    this.#off.add(node);
    const lost = this.#pods.list((pod) => nodeOf(pod) === node).flatMap((pod) => this.#running.get(pod.metadata.uid ?? "") ?? []);
    const ends = lost.map(({ process }) => process?.stop(0));
    for (const running of lost) running.process = undefined;
    await Promise.all(ends);
  }

  async stop(): Promise<void> {
    clearTimeout(this.#leases);
    clearInterval(this.#probes);
    await Promise.all([this.#controller.stop(), this.#pods.stop(), this.#secrets.stop(), this.#nodes.stop()]);
    await Promise.all([...this.#running.values()].map(({ process }) => process?.stop(0)));
    this.#running.clear();
  }

  async #makeNode(index: number): Promise<void> {
    const { kube } = this.#options;
    const name = nodeName(index);
    const labels = { "kubernetes.io/hostname": name, "topology.kubernetes.io/zone": `zone-${index % 3}` };
    await kube.create(resources.nodes, { apiVersion: "v1", kind: "Node", metadata: { name, labels } }, manager);
    const spec = { holderIdentity: name, leaseDurationSeconds: 40, renewTime: microTime() };
    const { apiVersion, kind } = resources.leases;
    await kube.create(resources.leases, { apiVersion, kind, metadata: { name, namespace: leaseNamespace }, spec }, manager);
    await this.#report(name);
    this.#writes += 2;
  }

  async #report(name: string): Promise<void> {
    const { kube, podsPerNode } = this.#options;
    const room = { cpu: "256", memory: "2Ti", pods: String(podsPerNode) };
    const ready = { type: "Ready", status: "True", reason: "KubeletReady", message: "simulated" };
    const times = { lastHeartbeatTime: time(), lastTransitionTime: time() };
    const status = { capacity: room, allocatable: room, conditions: [Object.assign({}, ready, times)] };
    await kube.applyStatus(resources.nodes, { apiVersion: "v1", kind: "Node", metadata: { name }, status }, manager);
    this.#writes += 1;
  }

  /** Looks again at every pod whose process has become ready, or is no more. */
  #probe(): void {
    for (const [key, uid] of this.#keys) {
      const running = this.#running.get(uid);
      if (running?.process && running.told !== stateOf(running)) this.#controller.queue.add(key);
    }
  }

  /** Renews the leases, and says of nodes that were taken for lost, as after a lease that came late, that they are well. */
  #renew(): void {
    const { kube, onError } = this.#options;
    this.#leases = setTimeout(async () => {
      const names = Array.from({ length: this.#count }, (_, index) => nodeName(index)).filter((name) => !this.#off.has(name));
      const renew = async (name: string): Promise<void> => {
        const spec = { renewTime: microTime() };
        await kube.patch(resources.leases, { namespace: leaseNamespace, name }, { spec }, manager);
        const node = this.#nodes.get({ namespace: "", name });
        if (node && !isReady(node)) await this.#report(name);
      };
      await each(names.length, (index) => renew(names[index] as string)).catch(onError);
      this.#writes += names.length;
      this.#renew();
    }, leaseMs);
  }

  async #reconcile(key: string): Promise<Outcome> {
    const pod = this.#pods.get(parseKey(key));
    const uid = pod?.metadata.uid ?? "";
    const before = this.#keys.get(key);
    if (before !== undefined && before !== uid) this.#leave(key, before);
    if (!pod || !isBound(pod) || this.#off.has(nodeOf(pod))) return {};
    this.#keys.set(key, uid);
    const running = this.#running.get(uid);
    if (pod.metadata.deletionTimestamp !== undefined) return this.#end(key, pod, running);
    if (!running) {
      if (!this.#mounted(pod)) return { requeueAfterMs: mountMs };
      await this.#begin(pod);
      return {};
    }
    await this.#tell(pod, running);
    return {};
  }

  /** True when every Secret that the pod cannot start without is there. */
  #mounted({ metadata, spec }: KubeObject): boolean {
    const { volumes = [] } = (spec ?? {}) as { volumes?: readonly Volume[] };
    return volumes.every(({ secret }) => !secret || secret.optional === true || this.#secret(metadata.namespace, secret.secretName));
  }

  #secret(namespace: string | undefined, name: string): Readonly<Record<string, string>> | undefined {
    const data = this.#secrets.get({ namespace: namespace ?? "", name })?.data as Record<string, string> | undefined;
    return data && Object.fromEntries(Object.entries(data).map(([entry, text]) => [entry, Buffer.from(text, "base64").toString("utf8")]));
  }

  async #begin(pod: KubeObject): Promise<void> {
    const uid = pod.metadata.uid ?? "";
    const running: Running = { ip: this.#address(), process: undefined, stopped: "no", told: "" };
    this.#running.set(uid, running);
    const secret = (name: string) => this.#secret(pod.metadata.namespace, name);
    try {
      running.process = await this.#options.start({ pod, ip: running.ip, secret });
    } catch (error) {
      this.#running.delete(uid);
      throw error;
    }
    await this.#tell(pod, running);
  }

  async #end(key: string, pod: KubeObject, running: Running | undefined): Promise<Outcome> {
    const uid = pod.metadata.uid ?? "";
    if (running?.process && running.stopped === "no") {
      running.stopped = "ending";
      const graceMs = Math.max(0, Date.parse(pod.metadata.deletionTimestamp ?? "") - Date.now());
      const ended = () => {
        running.stopped = "ended";
        this.#controller.queue.add(key);
      };
      running.process.stop(graceMs).then(ended, ended);
    }
    if (running?.process && running.stopped !== "ended") {
      await this.#tell(pod, running);
      return {};
    }
    this.#writes += 1;
    await this.#options.kube.delete(resources.pods, refOf(pod), { uid, graceSeconds: 0 });
    this.#running.delete(uid);
    return {};
  }

  #leave(key: string, uid: string): void {
    this.#keys.delete(key);
    void this.#running.get(uid)?.process?.stop(0);
    this.#running.delete(uid);
  }

  /** Writes the pod's status where it does not say so already. */
  async #tell(pod: KubeObject, running: Running): Promise<void> {
    const state = stateOf(running);
    if (running.told === state) return;
    const status = statusOf(pod, { ip: running.ip, ready: state === "ready" });
    this.#writes += 1;
    try {
      await this.#options.kube.updateStatus(resources.pods, Object.assign({}, pod, { status }), manager);
    } catch (error) {
      if (hasCode(error, "NotFound")) return;
      throw error;
    }
    running.told = state;
  }

  #address(): string {
    const next = ++this.#lastAddress;
    return `${this.#options.network}.${(next >> 8) & 255}.${next & 255}`;
  }
}

const stateOf = ({ stopped, process }: Running): "ready" | "not ready" => (stopped === "no" && process?.ready() ? "ready" : "not ready");
const nodeName = (index: number): string => `sim-${index}`;
const time = (): string => `${new Date().toISOString().slice(0, 19)}Z`;
const microTime = (): string => new Date().toISOString().replace("Z", "000Z");

const nodeOf = ({ spec }: KubeObject): string => (spec as { nodeName?: string } | undefined)?.nodeName ?? "";
const isBound = (pod: KubeObject): boolean => nodeOf(pod).startsWith("sim-");

function isReady({ status }: KubeObject): boolean {
  const { conditions = [] } = (status ?? {}) as { conditions?: readonly { readonly type: string; readonly status: string }[] };
  return conditions.some(({ type, status: holds }) => type === "Ready" && holds === "True");
}

/** A running pod's status, as the kubelet writes it. */
function statusOf(pod: KubeObject, { ip, ready }: { readonly ip: string; readonly ready: boolean }): object {
  const before = (pod.status ?? {}) as { conditions?: { type: string; status: string; lastTransitionTime: string }[]; startTime?: string };
  const conditions = before.conditions ?? [];
  const condition = (type: string, holds: boolean) => {
    const status = holds ? "True" : "False";
    const old = conditions.find((one) => one.type === type);
    const lastTransitionTime = old?.status === status ? old.lastTransitionTime : time();
    return Object.assign({}, old, { type, status, lastTransitionTime });
  };
  const told = [condition("Initialized", true), condition("Ready", ready), condition("ContainersReady", ready)];
  const startTime = before.startTime ?? time();
  const { containers } = pod.spec as { containers: readonly { name: string; image: string }[] };
  const containerStatuses = containers.map(({ name, image }) => ({
    ...{ name, image, imageID: image, ready, started: true, restartCount: 0, containerID: `sim://${pod.metadata.uid}` },
    state: { running: { startedAt: startTime } },
  }));
  const kept = conditions.filter(({ type }) => !told.some((one) => one.type === type));
  const addresses = { podIP: ip, podIPs: [{ ip }], hostIP: ip, hostIPs: [{ ip }] };
  return Object.assign({}, before, addresses, { phase: "Running", startTime, conditions: [...kept, ...told], containerStatuses });
}

/** Runs `task` for 0 to count - 1, so many at once as writes may be under way. */
export async function each(count: number, task: (index: number) => Promise<unknown>): Promise<void> {
  let next = 0;
  const work = async () => {
    for (let index = next++; index < count; index = next++) await task(index);
  };
  await Promise.all(Array.from({ length: Math.min(writesMax, count) }, work));
}
