// Everything of a worker between the network and the engine; all dependencies are injected, so that it also runs in a simulated cluster.
import { AppError } from "../../crds/common.ts";
import type { PredictorName, SuspectReason } from "../../crds/names.ts";
import type { TelemetryKey } from "../../crds/telemetry-keys.ts";
import type { Engine, EngineInfo, EngineKv, KvText } from "../engine/engine.ts";
import type { RemoteModel } from "../experts/memory/weight-server-tier.ts";
import { Peers } from "../experts/peers.ts";
import { Control } from "../net/gen/enodia/runtime/v1/runtime_pb.js";
import { type Caller, callerOf, type GrpcServer, type Network } from "../net/grpc.ts";
import type { Identity } from "../net/mapping.ts";
import type { Bus } from "../net/nats.ts";
import { type AskOptions, allLeave, askPeers } from "../net/peer-snapshot.ts";
import { ReadHost, type ReadSources } from "../net/read-host.ts";
import type { PeerIdentity, TlsSource } from "../net/tls.ts";
import type { Health } from "../observe/health.ts";
import type { Log } from "../observe/log.ts";
import type { Metrics } from "../observe/runtime-metrics.ts";
import type { SteadyClock } from "../observe/steady-clock.ts";
import type { Tracing } from "../observe/trace.ts";
import type { ModelStore } from "../weights/store.ts";
import { WorkerControl, type WorkerVitals } from "./control.ts";
import { storedCells } from "./expert-bytes.ts";
import { asWorker, createWorkerExperts, type OnDemandSocket, type WorkerExperts } from "./experts.ts";
import type { GenerateOptions } from "./inference.ts";
import type { KvDisk } from "./kv-disk.ts";
import { type BringOptions, KvFetch } from "./kv-fetch.ts";
import { KvSource } from "./kv-source.ts";
import { Leaving } from "./leaving.ts";
import type { PlanKeeper } from "./plan-keeper.ts";
import { ServiceRecord } from "./service-record.ts";
import { watchVitals } from "./worker-metrics.ts";
import { publishLoad } from "./worker-telemetry.ts";

type BringKv = NonNullable<GenerateOptions["bringKv"]>;

export interface PlaneOptions {
  readonly identity: Identity;
  readonly namespace: string;
  readonly name: string;
  readonly podName: string;
  readonly network: Pick<Network, "connect" | "callHeartbeat" | "connectReads">;
  readonly tls: TlsSource;
  readonly store: ModelStore;
  /** Set for a rank that mounts no model. */
  readonly remoteModel?: RemoteModel | undefined;
  /** Empty where no texts are served. */
  readonly textDigest: string;
  /** Serves the text files. */
  readonly textSources?: Pick<ReadSources, "file" | "list">;
  readonly engine: Engine;
  readonly info: EngineInfo;
  readonly onDemand: OnDemandSocket;
  readonly kvDisk?: KvDisk | undefined;
  readonly budgetBytes: number;
  readonly oversubscribed?: boolean;
  /** See ExpertsOptions. */
  readonly predictor?: PredictorName | undefined;
  readonly clock: SteadyClock;
  /** Milliseconds; unset = a minute. */
  readonly streamIdleMs?: number | undefined;
  readonly health: Health;
  readonly metrics: Metrics<"worker">;
  readonly tracing: Tracing;
  readonly log: Log;
}

interface LoadReports {
  /** Undefined without a NATS server. */
  readonly bus: Bus | undefined;
  readonly prefix: string;
  readonly windowMs: number;
  /** See ComputeWork. */
  readonly machine: string | undefined;
  /** See TelemetryOptions. */
  readonly signingKey: () => Promise<TelemetryKey | undefined>;
}

interface PlaneStart {
  readonly peerAddresses: () => Promise<readonly string[]>;
  /** Unset: no load is reported. */
  readonly load: LoadReports | undefined;
}

export interface WorkerPlane {
  readonly experts: WorkerExperts;
  readonly leaving: Leaving;
  readonly record: ServiceRecord;
  readonly vitals: () => WorkerVitals;
  /** Brings a text from the disk, then from a rank that may have more; undefined for an engine whose keys and values stay. */
  readonly bringKv: BringKv | undefined;
  caller(call: Caller): PeerIdentity;
  openConnections(host: string, port: number): Promise<void>;
  serve(server: GrpcServer): void;
  /** Returns a function that stops it. */
  start(start: PlaneStart): () => void;
  close(): void;
}

export function createWorkerPlane(options: PlaneOptions): WorkerPlane {
  const { identity, namespace, name, podName, network, tls, engine, info, store, budgetBytes, clock, health, metrics, tracing, log } =
    options;
  const caller = (call: Caller) => callerOf(call, namespace, name);
  const onSuspect = (reason: SuspectReason) => metrics.add("enodia_peer_suspicions_total", 1, { reason });
  const peers = new Peers({ self: identity, namespace, name, tls, network, log, onSuspect });
  const refresh = () => {
    const reason = experts.plan.notReady();
    if (reason === undefined) health.ready("plan");
    else health.notReady("plan", reason);
    // A leaving worker stays ready, since it serves its experts; gateways see its status.
    if (leaving.draining) health.notReady("drain", "draining");
    else health.ready("drain");
    control.changed();
  };
  const experts = createWorkerExperts({
    engine,
    info,
    store,
    remoteModel: options.remoteModel,
    peers,
    tls,
    budgetBytes,
    oversubscribed: options.oversubscribed ?? false,
    predictor: options.predictor,
    caller,
    metrics,
    tracing,
    log,
    streamIdleMs: options.streamIdleMs,
    onChange: () => refresh(),
    onNewerEpoch: (rank) => void joiner.from(rank),
    dead: () => {
      const reason = health.deadReason();
      return reason === undefined ? undefined : new AppError(reason, { code: "EngineStopped", retry: "backoff" });
    },
  });
  options.onDemand.connect(experts.onDemand);
  const kv = engine.kv && kvOf(engine.kv, { options, experts, caller });
  const joiner = new Joiner({ self: identity, namespace, name, tls, network, log, peers, plan: experts.plan });
  const ask = { self: identity, namespace, name, tls, network, log };
  const others = () => peers.membership.members.filter(({ rank, state }) => rank !== identity.rank && state !== "lost");
  const leaving = new Leaving({
    engine,
    peers,
    hosts: () => experts.state.hostsAny(),
    operatorWatches: () => control.watched,
    // A single rank has no peer to tell it, so it waits for the operator.
    othersLeave: async () =>
      others().length > 0 &&
      (await allLeave(
        others().map(({ address }) => address),
        ask,
      )),
    kvReadAt: () => kv?.source.readAt,
    dead: () => health.deadReason(),
    onChange: () => refresh(),
    log,
  });
  const drain = (on: boolean, finishMs: number) => leaving.drain(on, finishMs);
  const record = new ServiceRecord();
  const vitals = watchVitals({ engine, info, experts, peers, metrics, budgetBytes, leaving, record, health });
  const storedUnitBytes = storedCells(store.index, info);
  const { textDigest } = options;
  const own = { podName, info, textDigest, storedUnitBytes };
  const control = new WorkerControl({ ...own, peers, plan: experts.plan, vitals, drain, clock, caller, log });
  refresh();
  const start = ({ peerAddresses, load }: PlaneStart) => {
    const stopJoin = joiner.start(peerAddresses, () => control.operatorPresent);
    const { layers, experts: count } = info;
    const report = (messages: readonly string[], onAll: boolean) => control.report(messages, onAll);
    const of = { self: identity, namespace, name, layers, experts: count };
    const misses = options.oversubscribed ? () => experts.onDemand.misses : undefined;
    const stopLoad = load && publishLoad({ ...load, ...of, report, clock, engine, misses, metrics, log });
    return () => {
      stopJoin();
      stopLoad?.();
    };
  };
  const serve = (server: GrpcServer) => {
    server.add(Control, control.handlers());
    server.addHeartbeats(experts.heartbeatHandler);
    server.addReads(
      new ReadHost({ unit: experts.unitSource, ...options.textSources, ...(kv && { kv: kv.source.serve }) }),
      identity.deploymentUid,
      experts.admitReads,
    );
  };
  const openConnections = (host: string, port: number) => experts.connections.open(host, port);
  return { experts, leaving, record, vitals, bringKv: kv?.bring, caller, openConnections, serve, start, close: () => experts.close() };
}

/** Milliseconds that the disk and a rank together may take of a request; the gateway waits for 15 s (patience.ts). */
const bringMs = 10_000;

interface KvParts {
  readonly options: PlaneOptions;
  readonly experts: WorkerExperts;
  readonly caller: WorkerPlane["caller"];
}

function kvOf(kv: EngineKv, { options: { metrics, log, kvDisk }, experts: { peers, pace }, caller }: KvParts) {
  const authorize = (call: Caller) => void asWorker(caller(call));
  const onServed = (bytes: number) => metrics.add("enodia_kv_served_bytes_total", bytes);
  const fetch = new KvFetch({ kv, peers, pace, metrics, log });
  const read: EngineKv["read"] = async (block) => (await kv.read(block)) ?? kvDisk?.read(block);
  const fromBoth = async (text: KvText, rank: number | undefined, options: BringOptions): Promise<void> => {
    const signal = AbortSignal.any([options.signal, AbortSignal.timeout(bringMs)]);
    await kvDisk?.bring(text, signal);
    if (rank !== undefined) await fetch.bring(text, rank, { ...options, signal });
  };
  const bring: BringKv = (textOf, rank, options) =>
    kvDisk === undefined && rank === undefined ? undefined : fromBoth(textOf(), rank, options);
  return { source: new KvSource({ kv: { read }, pace, authorize, onServed }), bring };
}

/** Milliseconds. */
const joinEveryMs = 1_000;

interface JoinerOptions extends AskOptions {
  readonly log: Log;
  readonly peers: Peers;
  readonly plan: PlanKeeper;
}

/** Gets plan and membership from peers of the headless Service while the operator is away; the operator's pushes win. */
class Joiner {
  readonly #options: JoinerOptions;
  #busy = false;

  constructor(options: JoinerOptions) {
    this.#options = options;
  }

  /** Asks a rank that knows a newer epoch. */
  async from(rank: number): Promise<void> {
    const address = this.#options.peers.member(rank)?.address;
    if (address !== undefined) await this.#take(async () => [address]);
  }

  start(addresses: () => Promise<readonly string[]>, operatorPresent: () => boolean): () => void {
    const { peers, plan } = this.#options;
    const timer = setInterval(() => {
      const complete = peers.membership.version > 0 && plan.state.complete;
      if (!complete && !operatorPresent()) void this.#take(addresses);
    }, joinEveryMs);
    timer.unref();
    return () => clearInterval(timer);
  }

  async #take(addresses: () => Promise<readonly string[]>): Promise<void> {
    if (this.#busy) return;
    this.#busy = true;
    try {
      const { plan, membership } = await askPeers(await addresses(), this.#options);
      if (membership !== undefined) this.#options.peers.apply(membership);
      if (plan !== undefined) await this.#options.plan.adopt(plan);
    } catch (err) {
      this.#options.log.warn({ err }, "what a peer sent was refused");
    } finally {
      this.#busy = false;
    }
  }
}
