// A whole cluster in virtual time, of production code: the operator's loop, protocol, planner and sessions; on each worker all that
// lies between wire and engine. Replaced are clock, network (wire.ts, bus.ts), store (store.ts), Kubernetes (kube.ts) and what
// the engine computes (engine.ts, load.ts); imports.test.ts holds it to that. Used by tests of the rebalance plane and by the
// seeded fault search.
import type { PlacementPlan } from "../../crds/plan.ts";
import type { LeavingRank } from "../../operator/deployment/ports.ts";
import { seeded } from "../../operator/planner/random.ts";
import { intents } from "../../operator/rebalance/intents/index.ts";
import type { Intent } from "../../operator/rebalance/intents/intent.ts";
import { inlinePlanner } from "../../operator/rebalance/intents/planner-thread.ts";
import { connectsMax, Semaphore, termsMax } from "../../operator/rebalance/links/links.ts";
import { Telemetry } from "../../operator/rebalance/links/load-messages.ts";
import { Session } from "../../operator/rebalance/links/session.ts";
import { DeploymentLoop } from "../../operator/rebalance/loop.ts";
import type { LoopPorts } from "../../operator/rebalance/loop-ports.ts";
import type { StoredPlacement } from "../../operator/rebalance/ports.ts";
import { fromSpec } from "../../operator/rebalance/rollout/plan-object.ts";
import { serverNames } from "../../runtime/net/tls.ts";
import { silentLog } from "../../runtime/observe/log.ts";
import { tracingOff } from "../../runtime/observe/trace.ts";
import { loadByWeights } from "../../runtime/placement/split.ts";
import { telemetryKey } from "../kit/ranks/telemetry-keys.ts";
import { SimBus } from "./bus.ts";
import { asOwner, type Owner, VirtualClock } from "./clock.ts";
import { type RecordedEvent, SimKube } from "./kube.ts";
import { SimLoad } from "./load.ts";
import type { SimShape } from "./model.ts";
import { Oracle } from "./oracle.ts";
import { rulesPlanted } from "./plants.ts";
import { Troubles } from "./troubles.ts";
import { type Host, SimWire } from "./wire.ts";
import { ref, SimWorker, type Surroundings } from "./worker.ts";

export interface SimOptions {
  readonly seed?: number;
  readonly shape?: Partial<SimShape>;
  readonly ranks?: number;
  readonly spec?: Record<string, unknown>;
  /** Tried after those of the product. */
  readonly lastIntents?: readonly Intent[];
  readonly tracing?: LoopPorts["tracing"];
  /** Unset: policies run in the caller's thread. */
  readonly planner?: LoopPorts["planner"];
}

/** After so long only one operator's calls are under way, and what both have said is known everywhere. */
const settledMs = 10_000;

const protocolCalls = /\.Control\/(prepare|commit|abort|release)$/;

interface Operator {
  readonly owner: Owner;
  readonly host: Host;
  readonly loop: DeploymentLoop;
}

export class SimCluster {
  readonly clock: VirtualClock;
  readonly #planner: LoopPorts["planner"];
  readonly random;
  readonly shape: SimShape;
  readonly kube: SimKube;
  readonly load: SimLoad;
  readonly nats = new SimBus();
  /** The troubles of network and disks at this time. */
  readonly troubles: Troubles;
  readonly oracle: Oracle;
  /** Milliseconds that the clock of a rank's node is ahead of the operator's; all agree at first. */
  readonly clockAheadMs = new Map<number, number>();
  /** An operator was started anew: deadlines of plans before it are void. */
  resumed = false;
  /** Two of them carried out one epoch, and may have ended it differently. */
  twoOperatorsUntil = 0;
  /** Requests, answers and events of the protocol that have arrived. */
  protocolMessages = 0;
  /** The number of times that the loop asked for the operator's certificate. */
  identityAsks = 0;
  /** Every increase of a counter of the operator. */
  #terms = 0;
  readonly #counts: { readonly name: string; readonly result?: string; readonly reason?: string }[] = [];
  readonly #wire: SimWire;
  readonly #around: Surroundings;
  readonly #lastIntents: readonly Intent[];
  readonly #tracing: LoopPorts["tracing"];
  #operator: Operator | undefined;
  #podCount = 0;

  constructor(options: SimOptions = {}) {
    this.random = seeded(options.seed ?? 1);
    this.#lastIntents = options.lastIntents ?? [];
    this.#tracing = options.tracing ?? tracingOff;
    this.#planner = options.planner ?? inlinePlanner;
    this.clock = new VirtualClock(undefined, this.random.next);
    this.shape = { layers: 4, experts: 8, bytes: 100, budgetBytes: 2400, ...options.shape };
    this.kube = new SimKube(this.clock, options.ranks ?? 3, options.spec, (epoch) => this.oracle.onWrite(epoch));
    this.load = new SimLoad(this.shape, this.random);
    this.troubles = new Troubles(this.random.next);
    this.oracle = new Oracle(this);
    this.#wire = new SimWire(this.clock, {
      ...this.troubles.ofWire(),
      arriving: (message, call) => {
        if (protocolCalls.test(call.method)) this.protocolMessages++;
        return this.oracle.onMessage(this.troubles.damaged(message), call);
      },
    });
    this.#around = {
      ...{ clock: this.clock, wire: this.#wire, shape: this.shape, engineInfo: {}, watch: this.oracle },
      disk: (rank) => this.troubles.disk(rank),
      bus: () => this.nats.publisher(),
      telemetryKeys: [telemetryKey(1)],
      silent: false,
      clockAheadMs: this.clockAheadMs,
      counters: (worker) => this.load.counters(worker, this.#live().filter(({ ready }) => ready).length),
      peerAddresses: (self) =>
        this.#live()
          .filter((worker) => worker !== self)
          .map(({ address }) => address),
    };
    for (let rank = 0; rank < this.kube.desired; rank++) this.addPod(rank);
    this.clock.every(1_000, () => this.oracle.every());
  }

  get pods(): Map<string, SimWorker> {
    return this.kube.pods;
  }
  get events(): readonly RecordedEvent[] {
    return this.kube.events;
  }
  get epochsWritten(): readonly number[] {
    return this.kube.epochsWritten;
  }
  get loop(): DeploymentLoop | undefined {
    return this.#operator?.loop;
  }
  get stored(): StoredPlacement | undefined {
    return this.kube.stored;
  }
  set stored(placement: StoredPlacement | undefined) {
    this.kube.stored = placement;
  }
  set leaving(ranks: LeavingRank[]) {
    this.kube.leaving = ranks;
  }
  set demand(demand: SimLoad["demand"]) {
    this.load.demand = demand;
  }
  get demand(): SimLoad["demand"] {
    return this.load.demand;
  }
  /** The info that engines of processes which start from now on give of themselves. */
  set engineInfo(info: Surroundings["engineInfo"]) {
    this.#around.engineInfo = info;
  }

  /** The keys that workers sign their load with, as operator and workers have them from now on. */
  set telemetryKeys(keys: Surroundings["telemetryKeys"]) {
    this.#around.telemetryKeys = keys;
  }

  set silent(silent: boolean) {
    this.#around.silent = silent;
  }

  #live(): SimWorker[] {
    return [...this.pods.values()].filter(({ alive }) => alive);
  }

  /** The user edits the object. */
  respec(fields: Record<string, unknown>): void {
    this.kube.spec = this.kube.specOf(fields);
    this.refresh();
  }

  addPod(rank: number): SimWorker {
    const count = this.#podCount++;
    const worker = new SimWorker(this.#around, rank, `pod${count}`, `10.0.${count >> 8}.${count & 255}`);
    this.pods.set(worker.podUid, worker);
    return worker;
  }

  worker(rank: number): SimWorker {
    const found = this.ofRank(rank);
    if (!found) throw new Error(`no pod of rank ${rank}`);
    return found;
  }

  /** The newest pod of a rank. */
  ofRank(rank: number): SimWorker | undefined {
    return [...this.pods.values()].findLast((worker) => worker.rank === rank);
  }

  scale(ranks: number): void {
    this.kube.desired = ranks;
  }

  refresh(): void {
    const operator = this.#operator;
    if (operator) asOwner(operator.owner, () => operator.loop.update(this.kube.world()));
  }

  startOperator(): DeploymentLoop {
    const owner: Owner = { dead: false };
    const san = `DNS:${serverNames.operator(ref.namespace, ref.name)}`;
    const host: Host = { owner, id: -2, san, stalled: () => false };
    const loop = asOwner(owner, () => this.#makeLoop(owner, host));
    this.#operator = { owner, host, loop };
    return loop;
  }

  #makeLoop(owner: Owner, host: Host): DeploymentLoop {
    const network = this.#wire.network(host, "operator:0");
    const connecting = new Semaphore(connectsMax);
    return new DeploymentLoop(
      {
        clock: this.clock,
        term: this.#terms++ % termsMax,
        store: this.kube.placements(),
        openLink: (target) => new Session(target, { clock: this.clock, network, connecting }),
        planner: this.#planner,
        telemetry: new Telemetry(() => this.nats.open(owner)),
        telemetryKeys: () => {
          const keys = this.#around.telemetryKeys;
          return keys.length > 0 ? { keys } : { problem: "Secret sim-telemetry is not there yet" };
        },
        metrics: { add: (name, _amount, ...[labels]) => void this.#counts.push({ name, ...labels }), set: () => {}, observe: () => {} },
        tracing: this.#tracing,
        protocolRules: rulesPlanted(),
        log: silentLog,
        identity: async () => {
          this.identityAsks++;
          return { cert: "", key: "", ca: "" };
        },
        nats: (_, { telemetry: { nats } }) => (nats.url === undefined ? undefined : { url: nats.url, credentials: undefined }),
        event: (_world, type, reason, message) => this.kube.events.push({ at: this.clock.now(), type, reason, message }),
        onChange: () => {},
        onRollout: () => {},
      },
      this.kube.world(),
      [...intents(), ...this.#lastIntents],
    );
  }

  /** Its process is killed: nothing that it was about to do happens. */
  stopOperator(): void {
    const operator = this.#operator;
    this.#operator = undefined;
    if (operator) this.#kill(operator);
  }

  /** Another operator begins while this one goes on, until the returned function is called. */
  supersedeOperator(): () => void {
    const operator = this.#operator;
    this.startOperator();
    this.twoOperatorsUntil = Number.POSITIVE_INFINITY;
    return () => {
      if (operator) this.#kill(operator);
      this.twoOperatorsUntil = this.clock.now() + settledMs;
    };
  }

  #kill({ owner, host }: Operator): void {
    owner.dead = true;
    this.#wire.killed(host);
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
        const load = loadByWeights(this.demand(l), layer.hosts, layer.weights, Math.max(...ranks) + 1);
        const total = load.reduce((a, b) => a + b, 0);
        return total === 0 ? 1 : Math.max(...ranks.map((rank) => load[rank] ?? 0)) / (total / ranks.length);
      }),
    );
  }

  /** Labels of each increase of a counter. */
  counted(name: string): readonly { readonly result?: string; readonly reason?: string }[] {
    return this.#counts.filter((each) => each.name === name);
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
          const worker = this.ofRank(rank);
          const held = worker?.memory.has(worker.key(l, e)) || this.shape.oversubscribed;
          return worker?.alive && held && worker.state.epoch >= plan.epoch;
        }),
      ),
    );
  }
}
