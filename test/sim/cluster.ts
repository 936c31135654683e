// A whole cluster in virtual time: production loop, protocol and planner, and on each worker the production plan keeper, epoch
// machine, materializer and resident set. Replaced are clock, network, store, Kubernetes, and the workers' engine, transfers and
// frames (process.ts). Used by tests of the rebalance plane and by the seeded fault search.
import { AppError } from "../../crds/common.ts";
import { moeDeploymentSpecSchema } from "../../crds/moe-deployment.ts";
import type { PlacementPlan } from "../../crds/plan.ts";
import { type ComputeWork, encodeLoad, loadSubject, type StepSeconds, type Transitions } from "../../crds/telemetry.ts";
import type { LeavingRank, WorkerPod, World } from "../../operator/deployment/ports.ts";
import { seeded } from "../../operator/planner/random.ts";
import { DeploymentLoop } from "../../operator/rebalance/loop.ts";
import { fromSpec } from "../../operator/rebalance/plan-object.ts";
import { inlinePlanner } from "../../operator/rebalance/planner-thread.ts";
import type { LoadBus, PlacementStore, StoredPlacement } from "../../operator/rebalance/ports.ts";
import { Telemetry } from "../../operator/rebalance/telemetry.ts";
import { silentLog } from "../../runtime/observe/log.ts";
import { loadByShares } from "../../runtime/placement/split.ts";
import { computeWork } from "../builders/compute.ts";
import { VirtualClock } from "./clock.ts";
import type { SimNetwork, SimShape } from "./network.ts";
import { Oracle } from "./oracle.ts";
import type { RecordedEvent } from "./types.ts";
import { SimLink, SimWorker } from "./worker.ts";

const ref = { namespace: "ns", name: "sim" };
const uid = "uid-1";
const batchesPerSecond = 100;

export interface SimOptions {
  readonly seed?: number;
  readonly shape?: Partial<SimShape>;
  readonly ranks?: number;
  readonly spec?: Record<string, unknown>;
}

export class SimCluster {
  readonly clock = new VirtualClock();
  readonly random;
  readonly shape: SimShape;
  readonly pods = new Map<string, SimWorker>();
  readonly events: RecordedEvent[] = [];
  /** Pairs that cannot talk, as "a:b" with a < b. */
  readonly cuts = new Set<string>();
  corruptNext = 0;
  slow = new Map<number, number>();
  duplicating = false;
  readonly oracle: Oracle;
  /** An operator was started anew: deadlines of plans before it are void. */
  resumed = false;
  bus = { connected: true, reason: "Connected" };
  /** Workers publish nothing, as if NATS had lost it. */
  silent = false;
  stored: StoredPlacement | undefined;
  storeDown = false;
  /** So many writes of plans to come fail. */
  failWrites = 0;
  loop: DeploymentLoop | undefined;
  leaving: LeavingRank[] = [];
  /** How often the loop asked for the operator's certificate. */
  identityAsks = 0;
  readonly epochsWritten: number[] = [];
  /** Selections per expert of a layer: the demand that every rank's traffic has. */
  demand: (layer: number) => readonly number[] = () => [];
  /** Where sampled tokens go in a second; sent by workers that are asked for it. */
  flow: Transitions | undefined;
  /** Where ranks say that the time of a second's steps went; unset: they do not say. */
  seconds: StepSeconds | undefined;
  /** How fast ranks compute, and by what part a window's figure is off at most; unset: workers do not tell what it takes. */
  rates: { readonly speed: (rank: number) => number; readonly noise: number } | undefined;
  /** Load messages with transitions so far. */
  transitionsSent = 0;
  /** Every increase of a counter of the operator. */
  private readonly counts: { readonly name: string; readonly result?: string; readonly reason?: string }[] = [];
  private readonly net: SimNetwork;
  private readonly handlers = new Set<(bytes: Uint8Array, subject: string) => void>();
  private version = 0;
  private podCount = 0;
  private seq = 0;
  private desired: number;
  private spec;

  constructor(options: SimOptions = {}) {
    const random = seeded(options.seed ?? 1);
    this.random = random;
    this.shape = { layers: 4, experts: 8, bytes: 100, budgetBytes: 2400, ...options.shape };
    this.desired = options.ranks ?? 3;
    this.spec = this.specOf(options.spec);
    this.net = {
      clock: this.clock,
      random: random.next,
      shape: this.shape,
      deploymentUid: uid,
      worker: (rank) => [...this.pods.values()].find((worker) => worker.rank === rank && worker.alive),
      connected: (a, b) => !this.cuts.has(`${Math.min(a, b)}:${Math.max(a, b)}`),
      corrupts: () => this.corruptNext > 0 && this.corruptNext-- > 0,
      fetchFactor: (rank) => this.slow.get(rank) ?? 1,
      duplicates: () => this.duplicating && random.next() < 0.2,
      onFree: (worker, layer, expert) => this.oracle.onFree(worker, layer, expert),
      onMemory: (worker, layer, expert) => this.oracle.onMemory(worker, layer, expert),
      onCommit: (worker, plan, layers) => this.oracle.onCommit(worker, plan, layers),
      onAdopt: (worker, layers) => this.oracle.onInstall(worker, layers),
    };
    this.oracle = new Oracle(this, this.net);
    for (let rank = 0; rank < this.desired; rank++) this.addPod(rank);
    this.clock.after(1000, () => this.traffic());
  }

  private specOf(fields: Record<string, unknown> | undefined) {
    return moeDeploymentSpecSchema.parse({
      model: { uri: "pvc://m/x" },
      replicas: this.desired,
      telemetry: { nats: { url: "nats://sim:4222" } },
      ...fields,
    });
  }

  /** The user edits the object. */
  respec(fields: Record<string, unknown>): void {
    this.spec = this.specOf(fields);
    this.refresh();
  }

  addPod(rank: number): SimWorker {
    const worker = new SimWorker(this.net, rank, `pod${this.podCount++}`);
    this.pods.set(worker.podUid, worker);
    return worker;
  }

  worker(rank: number): SimWorker {
    const found = [...this.pods.values()].find((worker) => worker.rank === rank);
    if (!found) throw new Error(`no pod of rank ${rank}`);
    return found;
  }

  scale(ranks: number): void {
    this.desired = ranks;
  }

  world(): World {
    const workers = [...this.pods.values()].map(
      (worker): WorkerPod => ({
        rank: worker.rank,
        name: worker.podName,
        uid: worker.podUid,
        ip: `10.0.0.${worker.rank}`,
        node: `n${worker.rank}`,
        zone: undefined,
        ready: worker.ready,
        terminating: false,
        lost: false,
      }),
    );
    return { ref, uid, generation: 1, spec: this.spec, desiredRanks: this.desired, workers, gateways: [], leaving: this.leaving };
  }

  refresh(): void {
    this.loop?.update(this.world());
  }

  startOperator(): DeploymentLoop {
    const telemetry = new Telemetry(
      () => this.openBus(),
      () => {},
    );
    this.loop = new DeploymentLoop(
      {
        clock: this.clock,
        store: this.store(),
        openLink: (target) => new SimLink(this.net, target, () => this.pods.get(target.podUid)),
        planner: inlinePlanner,
        telemetry,
        metrics: { add: (name, _amount, ...[labels]) => void this.counts.push({ name, ...labels }), set: () => {}, observe: () => {} },
        log: silentLog,
        identity: async () => {
          this.identityAsks++;
          return { cert: "", key: "", ca: "" };
        },
        natsUrl: (spec) => spec.telemetry.nats.url,
        event: (_world, type, reason, message) => this.events.push({ at: this.clock.now(), type, reason, message }),
        onChange: () => {},
        onRollout: () => {},
      },
      this.world(),
    );
    return this.loop;
  }

  stopOperator(): void {
    this.loop?.close();
    this.loop = undefined;
  }

  private openBus(): LoadBus {
    const own = new Set<(bytes: Uint8Array, subject: string) => void>();
    const bus = this.bus;
    return {
      get status() {
        return bus;
      },
      subscribe: (_subject, handler) => {
        own.add(handler);
        this.handlers.add(handler);
        return () => this.handlers.delete(handler);
      },
      close: async () => {
        for (const handler of own) this.handlers.delete(handler);
      },
    };
  }

  private store(): PlacementStore {
    const check = async (): Promise<void> => {
      await this.clock.sleep(2);
      if (this.storeDown) throw unavailable();
    };
    return {
      read: async () => {
        await check();
        return this.stored;
      },
      write: async (_ref, _owner, spec, known) => {
        await check();
        if (this.failWrites > 0 && this.failWrites-- > 0) throw unavailable();
        if (this.stored && this.stored.spec.planHash !== known?.spec.planHash)
          throw new AppError("the plan has changed", { code: "Conflict" });
        this.epochsWritten.push(spec.epoch);
        this.oracle.onWrite(spec.epoch);
        this.stored = { resourceVersion: String(++this.version), spec, status: this.stored?.status ?? {} };
        return this.stored;
      },
      writeStatus: async (_ref, status) => {
        await check();
        if (!this.stored) throw new AppError("there is no such object", { code: "NotFound" });
        this.stored = { ...this.stored, status };
      },
    };
  }

  /**
   * Every second sources and hosts exchange frames, and each rank publishes a window: demand split evenly at the sources, work
   * done where the plan sends it.
   */
  private traffic(): void {
    this.clock.after(1000, () => this.traffic());
    this.oracle.frames();
    if (!this.bus.connected || this.silent) return;
    const live = [...this.pods.values()].filter((worker) => worker.alive && worker.ready);
    const plan = live[0]?.state.snapshot();
    if (!plan) return;
    for (const worker of live) this.publish(worker, plan, live.length);
  }

  private publish(worker: SimWorker, plan: PlacementPlan, sources: number): void {
    const { layers, experts } = this.shape;
    const routed = new Uint32Array(layers * experts);
    const served = new Uint32Array(layers * experts);
    for (let l = 0; l < layers; l++) {
      const demand = this.demand(l);
      for (let e = 0; e < experts; e++) {
        routed[l * experts + e] = Math.round((demand[e] ?? 0) / sources);
        const row = plan.layers[l]?.hosts[e] ?? [];
        const at = row.indexOf(worker.rank);
        served[l * experts + e] = at < 0 ? 0 : Math.round(((demand[e] ?? 0) * (plan.layers[l]?.shares[e]?.[at] ?? 0)) / 1000);
      }
    }
    const transitions = worker.membership?.sampleTransitions ? this.flow : undefined;
    if (transitions) this.transitionsSent++;
    const text = encodeLoad({
      ...(transitions ? { transitions } : {}),
      ...(this.seconds ? { seconds: this.seconds } : {}),
      ...this.computeOf(worker, served),
      v: 1,
      deploymentUID: uid,
      rank: worker.rank,
      bootId: worker.bootId,
      seq: this.seq++,
      windowStart: this.clock.now() - 1000,
      windowEnd: this.clock.now(),
      phase: "decode",
      layers,
      experts,
      routed,
      served,
    });
    const bytes = new TextEncoder().encode(text);
    for (const handler of this.handlers) handler(bytes, loadSubject("enodia", ref.namespace, ref.name, worker.rank));
  }

  private computeOf(worker: SimWorker, served: Uint32Array): { compute?: ComputeWork } {
    if (!this.rates) return {};
    const rows = served.reduce((a, b) => a + b, 0) / batchesPerSecond;
    const off = 1 + this.rates.noise * (2 * this.random.next() - 1);
    const { experts } = this.shape;
    const speed = this.rates.speed(worker.rank);
    return rows > 0 ? { compute: computeWork({ batches: batchesPerSecond, rows, experts, speed, off }, this.random.next) } : {};
  }

  plan(): PlacementPlan | undefined {
    return this.stored ? fromSpec(this.stored.spec) : undefined;
  }

  /** Worst max/mean under the stored plan for the present demand. */
  imbalance(): number {
    const plan = this.plan();
    if (!plan) return Number.POSITIVE_INFINITY;
    const ranks = [...this.pods.values()].map((worker) => worker.rank);
    return Math.max(
      ...plan.layers.map((layer, l) => {
        const load = loadByShares(this.demand(l), layer.hosts, layer.shares, Math.max(...ranks) + 1);
        const total = load.reduce((a, b) => a + b, 0);
        return total === 0 ? 1 : Math.max(...ranks.map((rank) => load[rank] ?? 0)) / (total / ranks.length);
      }),
    );
  }

  /** Labels of each increase of a counter. */
  counted(name: string): readonly { readonly result?: string; readonly reason?: string }[] {
    return this.counts.filter((each) => each.name === name);
  }

  /** Promises that were broken, as the oracle saw it. */
  faults(): readonly string[] {
    return this.oracle.faults;
  }

  /** Every rank that the plan names holds its experts and serves the stored epoch. */
  converged(): boolean {
    const plan = this.plan();
    if (!plan || this.loop?.view()?.placement?.phase !== "Committed") return false;
    return plan.layers.every((layer, l) =>
      layer.hosts.every((hosts, e) =>
        hosts.every((rank) => {
          const worker = this.net.worker(rank);
          return worker?.memory.has(worker.key(l, e)) && worker.state.epoch >= plan.epoch;
        }),
      ),
    );
  }
}

const unavailable = (): AppError => new AppError("the API server does not answer", { code: "Unavailable", retry: "backoff" });
