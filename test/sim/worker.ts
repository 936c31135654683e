// A worker pod and the processes that run in it, one after another. A process is the production worker plane over a simulated
// network, disk and engine; the pod is what Kubernetes would do with it. Faults are switched on from outside.
import { ports } from "../../crds/common.ts";
import type { PlacementPlan } from "../../crds/plan.ts";
import type { TelemetryKey } from "../../crds/telemetry-keys.ts";
import type { EngineInfo, LoadCounters } from "../../runtime/engine/engine.ts";
import type { ResidentSet } from "../../runtime/experts/memory/resident-set.ts";
import type { Identity, Membership } from "../../runtime/net/mapping.ts";
import type { Bus } from "../../runtime/net/nats.ts";
import { fixedTls } from "../../runtime/net/tls.ts";
import { createHealth, type Health } from "../../runtime/observe/health.ts";
import { silentLog } from "../../runtime/observe/log.ts";
import type { Metrics } from "../../runtime/observe/runtime-metrics.ts";
import { tracingOff } from "../../runtime/observe/trace.ts";
import { OnDemandSocket } from "../../runtime/worker/experts.ts";
import { PlanState } from "../../runtime/worker/plan-state.ts";
import { createWorkerPlane, type WorkerPlane } from "../../runtime/worker/worker-plane.ts";
import { asOwner, type Owner, type VirtualClock } from "./clock.ts";
import { SimEngine } from "./engine.ts";
import { hidden, SimModel, type SimShape } from "./model.ts";
import { type Disk, simStore } from "./store.ts";
import type { Host, SimWire } from "./wire.ts";

/** The kubelet asks a process whether it lives this often, and starts it again at the third no. */
const probeMs = 1_000;
const probesMax = 3;
const startMs = 50;
const enginePort = 1;
/** Nobody reads it: connections are known by their hosts. */
export const tls = fixedTls({ cert: Buffer.of(1), key: Buffer.of(2), ca: Buffer.of(3) });

export const ref = { namespace: "ns", name: "sim" };
export const deploymentUid = "uid-1";

/** The surroundings of pods. */
export interface Surroundings {
  readonly clock: VirtualClock;
  readonly wire: SimWire;
  readonly shape: SimShape;
  /** The info that engines give of themselves, where it is not the default. */
  engineInfo: Partial<EngineInfo>;
  disk(rank: number): Disk;
  bus(worker: SimWorker): Bus;
  /** Milliseconds that the clock of a rank's node is ahead of the operator's. */
  readonly clockAheadMs: ReadonlyMap<number, number>;
  /** Newest first. */
  telemetryKeys: readonly TelemetryKey[];
  /** Ranks tell nobody of their load. */
  silent: boolean;
  counters(worker: SimWorker): LoadCounters;
  peerAddresses(worker: SimWorker): string[];
  readonly watch: Watch;
}

/** The onlooker of what happens in processes. */
export interface Watch {
  /** Called before an expert goes, and `onMemory` after one has come or gone. */
  onFree(worker: SimWorker, layer: number, expert: number): void;
  onMemory(worker: SimWorker, layer: number, expert: number): void;
  /** Called for placements that are new to the worker: committed, or adopted as a whole. */
  onCommit(worker: SimWorker, plan: PlacementPlan, layers: readonly number[]): void;
  onAdopt(worker: SimWorker, layers: readonly number[]): void;
  onStep(worker: SimWorker, event: "begun" | "done" | "failed" | "wrong", detail: string): void;
}

interface Process {
  readonly owner: Owner;
  readonly host: Host;
  readonly health: Health;
  readonly engine: SimEngine;
  readonly plane: WorkerPlane;
  readonly model: SimModel;
}

const metrics = { add() {}, set() {}, observe() {}, onCollect() {} } as unknown as Metrics<"worker">;

export class SimWorker {
  readonly rank: number;
  readonly podUid: string;
  readonly podName: string;
  readonly ip: string;
  bootId: string;
  bootedAt: number;
  stalled = false;
  activeRequests = 0;
  process: Process | undefined;
  readonly #around: Surroundings;
  #starts = 0;
  #gone = false;
  /** Placements ("layer/epoch") of plans that were adopted whole, as long as not all of their experts have been loaded. */
  #adopted = new Set<string>();
  /** Planned experts whose place others have. */
  readonly #away = new Set<number>();
  readonly #noState: PlanState;

  constructor(around: Surroundings, rank: number, podUid: string, ip: string) {
    this.#around = around;
    this.rank = rank;
    this.podUid = podUid;
    this.podName = `sim-${rank}-${podUid}`;
    this.ip = ip;
    this.bootId = `${podUid}-boot0`;
    this.bootedAt = around.clock.now();
    const { layers, experts, layerExperts } = around.shape;
    this.#noState = new PlanState({ deploymentUid, rank, layers, experts, layerExperts, modelDigest: "" });
    asOwner(undefined, () => around.clock.after(0, () => this.#start()));
    this.#probe(0);
  }

  get alive(): boolean {
    return this.process !== undefined;
  }
  get address(): string {
    return `${this.ip}:${ports.grpc}`;
  }
  get state(): PlanState {
    return this.process?.plane.experts.state ?? this.#noState;
  }
  get memory(): Map<number, number> {
    return this.process?.engine.memory ?? new Map();
  }
  get residents(): ResidentSet | undefined {
    return this.process?.plane.experts.residents;
  }
  get membership(): Membership | undefined {
    return this.process?.plane.experts.peers.membership;
  }
  get ready(): boolean {
    return this.process !== undefined && this.process.health.reasons().length === 0;
  }
  get hostedBytes(): number {
    const { bytes, experts, layerBytes } = this.#around.shape;
    if (layerBytes === undefined) return this.memory.size * bytes;
    return [...this.memory.keys()].reduce((sum, key) => sum + (layerBytes[Math.floor(key / experts)] ?? bytes), 0);
  }
  key(layer: number, expert: number): number {
    return layer * this.#around.shape.experts + expert;
  }

  #start(): void {
    if (this.#gone || this.process) return;
    const owner: Owner = { dead: false };
    asOwner(owner, () => {
      this.process = this.#boot(owner);
    });
  }

  #boot(owner: Owner): Process {
    const { rank, podUid, podName, bootId } = this;
    const around = this.#around;
    const { namespace, name } = ref;
    const san = `DNS:rank-${rank}.${name}.${namespace}.enodia, URI:spiffe://enodia/${namespace}/${name}/${podName}`;
    const host: Host = { owner, id: rank, san, stalled: () => this.stalled };
    const model = new SimModel(around.shape, around.engineInfo.modelDigest);
    const info = infoOf(around);
    const onDemand = new OnDemandSocket();
    const engine = new SimEngine({
      ...{ clock: around.clock, model, info, onDemand, network: around.wire.rows(host) },
      counters: () => around.counters(this),
      activeRequests: () => this.activeRequests,
      onFree: (layer, expert) => this.#freeing(layer, expert),
      onMemory: (layer, expert) => this.#changed(layer, expert),
      onStep: (event, detail) => around.watch.onStep(this, event, detail),
    });
    const network = around.wire.network(host, this.address);
    const health = createHealth();
    const identity: Identity = { deploymentUid, rank, podUid, bootId };
    const plane = createWorkerPlane({
      ...{ identity, namespace, name, podName, network, tls, engine, info, onDemand, health, metrics },
      ...{ store: simStore(model, around.disk(rank), around.clock), textDigest: "", budgetBytes: around.shape.budgetBytes, log: silentLog },
      oversubscribed: around.shape.oversubscribed ?? false,
      tracing: tracingOff,
      clock: () => around.clock.now() + (around.clockAheadMs.get(rank) ?? 0),
    });
    this.#follow(plane.experts.state);
    const server = network.createServer(tls);
    plane.serve(server);
    void server.listen(this.ip, ports.grpc);
    void plane.openConnections(this.ip, enginePort);
    plane.start({
      peerAddresses: async () => around.peerAddresses(this),
      load: {
        bus: around.bus(this),
        prefix: "enodia",
        windowMs: 1_000,
        machine: undefined,
        signingKey: async () => (around.silent ? undefined : around.telemetryKeys[0]),
      },
    });
    engine.run(() => this.ready);
    return { owner, host, health, engine, plane, model };
  }

  /** Looks at what the epoch machine takes on, at the moment when it does. */
  #follow(state: PlanState): void {
    const { watch } = this.#around;
    const looking = <A extends unknown[], R>(call: (...args: A) => R, told: (layers: number[], ...args: A) => void) => {
      return (...args: A): R => {
        const before = this.#epochs(state);
        const result = call.apply(state, args);
        const changed = [...before.keys()].filter((layer) => state.current(layer)?.epoch !== before[layer]);
        if (changed.length > 0) told(changed, ...args);
        return result;
      };
    };
    state.commit = looking(
      (plan: PlacementPlan) => PlanState.prototype.commit.call(state, plan),
      (layers, plan) => watch.onCommit(this, plan, layers),
    );
    state.adopt = looking(
      (plan: PlacementPlan) => PlanState.prototype.adopt.call(state, plan),
      (layers) => {
        for (const layer of layers) if (!this.#holdsPlanned(layer)) this.#adopted.add(this.#placementKey(layer));
        watch.onAdopt(this, layers);
      },
    );
  }

  #epochs(state: PlanState): (number | undefined)[] {
    return Array.from({ length: this.#around.shape.layers }, (_, layer) => state.current(layer)?.epoch);
  }

  #freeing(layer: number, expert: number): void {
    const planned = this.state.planned(layer).includes(expert) || this.state.next(layer)?.hosts[expert]?.includes(this.rank);
    if (planned) this.#away.add(this.key(layer, expert));
    this.#around.watch.onFree(this, layer, expert);
  }

  #changed(layer: number, expert: number): void {
    if (this.memory.has(this.key(layer, expert))) this.#away.delete(this.key(layer, expert));
    if (this.#holdsPlanned(layer)) this.#adopted.delete(this.#placementKey(layer));
    this.#around.watch.onMemory(this, layer, expert);
  }

  #holdsPlanned(layer: number): boolean {
    return this.state.planned(layer).every((expert) => this.memory.has(this.key(layer, expert)));
  }
  #placementKey(layer: number, epoch = this.state.current(layer)?.epoch): string {
    return `${layer}/${epoch}`;
  }

  /** It learnt of this placement, or of the one before it, by a push after the others, and has not held all of it yet. */
  catchingUp(layer: number, epoch: number): boolean {
    return this.#adopted.has(this.#placementKey(layer, epoch)) || this.#adopted.has(this.#placementKey(layer));
  }
  /** Planned here, it gave its place to one that nobody else holds. */
  gaveWay(layer: number, expert: number): boolean {
    return this.#around.shape.oversubscribed === true || this.#away.has(this.key(layer, expert));
  }

  /** The process dies; the kubelet starts it again in the same pod after `ms`. */
  crash(restartMs: number | undefined): void {
    const { clock, wire } = this.#around;
    const { process } = this;
    if (process) {
      process.owner.dead = true;
      wire.killed(process.host);
    }
    this.process = undefined;
    this.#adopted = new Set();
    this.#away.clear();
    if (restartMs === undefined) this.#gone = true;
    else {
      this.#gone = false;
      this.bootId = `${this.podUid}-boot${++this.#starts}`;
      asOwner(undefined, () =>
        clock.after(restartMs, () => {
          this.bootedAt = clock.now();
          this.#start();
        }),
      );
    }
  }

  /** Plays the kubelet: a process that says of itself that it is dead is started again. */
  #probe(failures: number): void {
    const { clock } = this.#around;
    asOwner(undefined, () =>
      clock.after(probeMs, () => {
        const dead = this.process?.health.deadReason() !== undefined;
        if (dead && failures + 1 >= probesMax) this.crash(startMs);
        this.#probe(dead && failures + 1 < probesMax ? failures + 1 : 0);
      }),
    );
  }

  /** Experts loaded on demand, in use, take all room beside what `plan` wants here, until the returned function is called. */
  fillUp(plan: PlacementPlan): () => void {
    const { process, rank } = this;
    if (!process || process.engine.hasEnded) return () => {}; // such an engine loads nothing
    const { residents, state } = process.plane.experts;
    const filled: { layer: number; expert: number }[] = [];
    asOwner(process.owner, () => {
      for (const { layer, hosts } of plan.layers) {
        for (const [expert, row] of hosts.entries()) {
          if (row.includes(rank) || state.wanted(layer).has(expert) || !residents.hasRoom({ layer, expert })) continue;
          if (residents.admit({ layer, expert }, "staged").action !== "load") continue;
          void process.engine.loadExpert(layer, expert, process.model.content(layer, expert));
          residents.loaded({ layer, expert });
          residents.lease({ layer, expert });
          filled.push({ layer, expert });
        }
      }
    });
    return () => {
      for (const { layer, expert } of filled) residents.unlease({ layer, expert });
    };
  }
}

export function infoOf({ shape, engineInfo }: Pick<Surroundings, "shape" | "engineInfo">): EngineInfo {
  return {
    ...{ modelDigest: "sha256:model", architecture: "sim", layers: shape.layers, experts: shape.experts, topK: 2, hidden },
    ...{
      layerExperts: shape.layerExperts,
      unlikeResidentBytes: shape.layerBytes?.map((bytes) => new Array<number>(shape.experts).fill(bytes)),
    },
    ...{
      vocab: 1,
      codec: "f32",
      backend: "simulated",
      device: "simulated",
      numerics: "exact: simulated",
      maxContext: 1,
      denseBytes: 1,
      kvBytes: 1,
      kvSlots: 1,
    },
    ...{ kvBlocks: 1, kvBlockTokens: 1, expertResidentBytes: shape.bytes, speed: 1, sharesCores: false },
    ...engineInfo,
  };
}
