// Wires this rank's side of experts: memory, transfers, plan, frames.
import { availableParallelism } from "node:os";
import { AppError } from "../../crds/common.ts";
import { frameResults, type PredictorName } from "../../crds/names.ts";
import type { Engine, EngineInfo, ExpectedExperts, OnDemandExperts, OnDemandFrame, PeerCounts } from "../engine/engine.ts";
import { evictions } from "../experts/cache/index.ts";
import { Heartbeats } from "../experts/heartbeats.ts";
import { loadsAtOnce, Materializer } from "../experts/memory/materializer.ts";
import { type ResidentExpert, ResidentSet } from "../experts/memory/resident-set.ts";
import { type FetchOutcome, PeerTier, storeTier } from "../experts/memory/shard-client.ts";
import { shardSource } from "../experts/memory/shard-server.ts";
import { SharedTime } from "../experts/memory/shared-time.ts";
import { StoreReads } from "../experts/memory/store-reads.ts";
import { type Device, inOrder, orElse } from "../experts/memory/tier.ts";
import { TransferPace } from "../experts/memory/transfer-pace.ts";
import { keeping, keptTier, type RemoteModel, WeightServerTier } from "../experts/memory/weight-server-tier.ts";
import { OnDemand } from "../experts/on-demand.ts";
import { PeerDirectory } from "../experts/peer-directory.ts";
import type { Peers } from "../experts/peers.ts";
import { PrefetchLoads } from "../experts/prefetch-loads.ts";
import type { Caller } from "../net/grpc.ts";
import type { HeartbeatHandler } from "../net/heartbeat.ts";
import { isCertified, type PeerIdentity, type TlsSource } from "../net/tls.ts";
import type { Log } from "../observe/log.ts";
import type { Metrics } from "../observe/runtime-metrics.ts";
import type { Tracing } from "../observe/trace.ts";
import type { BackoffDecision } from "../placement/backoff.ts";
import type { ModelStore } from "../weights/store.ts";
import { residentBytesOf } from "./expert-bytes.ts";
import { PlanKeeper } from "./plan-keeper.ts";
import { PlanState } from "./plan-state.ts";

/** Calls before `connect` are refused. */
export class OnDemandSocket implements OnDemandExperts {
  #target: OnDemandExperts | undefined;

  connect(target: OnDemandExperts): void {
    this.#target = target;
  }
  run(frame: OnDemandFrame): Promise<Float32Array> {
    if (this.#target === undefined) return Promise.reject(new AppError("the worker is starting", { code: "NotReady", retry: "backoff" }));
    return this.#target.run(frame);
  }
  expect(expected: ExpectedExperts): void {
    this.#target?.expect?.(expected);
  }
}

export interface ExpertsOptions {
  readonly engine: Engine;
  readonly info: EngineInfo;
  readonly store: ModelStore;
  /** Set for a rank that mounts no model. */
  readonly remoteModel?: RemoteModel | undefined;
  readonly peers: Peers;
  readonly budgetBytes: number;
  /** Planned experts for which memory has no room stay on the disk. */
  readonly oversubscribed?: boolean;
  /** The engine's, for metrics. */
  readonly predictor?: PredictorName | undefined;
  readonly tls: TlsSource;
  readonly caller: (call: Caller) => PeerIdentity;
  readonly metrics: Metrics<"worker">;
  readonly tracing: Tracing;
  readonly log: Log;
  readonly onChange: () => void;
  /** Why this rank can serve nobody any more. */
  readonly dead: () => AppError | undefined;
  /** A peer serves a newer epoch. */
  readonly onNewerEpoch: (rank: number) => void;
  /** See HeartbeatsOptions.idleMs. */
  readonly streamIdleMs?: number | undefined;
}

export type WorkerExperts = ReturnType<typeof createWorkerExperts>;

export function createWorkerExperts(options: ExpertsOptions) {
  const { engine, info, store, peers, metrics, log, oversubscribed = false } = options;
  const onChange = () => {
    options.onChange();
    connections.refresh();
  };
  const state = new PlanState({
    deploymentUid: peers.self.deploymentUid,
    rank: peers.self.rank,
    modelDigest: info.modelDigest,
    layers: info.layers,
    experts: info.experts,
    layerExperts: info.layerExperts,
  });
  const reads = new StoreReads(store, info.codec);
  const pace = new TransferPace({ onChange: (decision, before) => reportPace(metrics, log, decision, before) });
  const { atOnce, materializer, onDisk, prefetch } = memoryOf(options, reads, pace, state);
  const { residents } = materializer;
  const plan = new PlanKeeper({ state, engine, materializer, oversubscribed, peers, layers: info.layers, metrics, log, onChange });
  const onDemand = new OnDemand({
    engine,
    materializer,
    hidden: info.hidden,
    sourcesOf: (layer, expert) => state.sources(layer, expert),
    atOnce: oversubscribed ? atOnce : undefined,
    prefetch,
    giveWay: (layer, expert) => (oversubscribed ? undefined : plan.giveWay.to(layer, expert)),
    wanted: (layer, expert) => state.wanted(layer).has(expert),
    onDemandLoad: (result) => {
      if (!oversubscribed || result === "error") metrics.add("enodia_expert_on_demand_loads_total", 1, { result });
    },
  });
  const connections: PeerDirectory = directoryOf(options, state, (counts) => {
    heartbeats.used(counts.used);
    for (const { layer, experts } of counts.served.touched) residents.touch(layer, experts);
    for (const rank of counts.newer) options.onNewerEpoch(rank);
    for (const span of counts.spans) options.tracing.record(span);
  });
  const heartbeats = new Heartbeats({
    peers,
    onEnginePort: (rank, port) => connections.heard(rank, port),
    onStream: (event) => {
      if (event === "opened") metrics.add("enodia_dispatch_streams_opened_total", 1);
      else metrics.add("enodia_dispatch_streams_closed_total", 1, { reason: event });
    },
    idleMs: options.streamIdleMs,
  });
  const workerOnly = (call: Caller) => asWorker(options.caller(call));
  const heartbeatHandler: HeartbeatHandler = {
    greet: (call, sender) => {
      workerOnly(call);
      if (sender.deploymentUid !== peers.self.deploymentUid)
        throw new AppError("sender.deployment_uid: another deployment", { code: "Forbidden", operation: "Heartbeats" });
      heartbeats.called(sender.rank);
    },
    state: () => options.dead() ?? connections.port,
  };
  const unitSource = shardSource({
    store,
    reads,
    codec: info.codec,
    pace,
    hosts: (layer, expert) =>
      (residents.isResident({ layer, expert }) || (oversubscribed && state.wanted(layer).has(expert))) && onDisk({ layer, expert }),
    authorize: workerOnly,
    onServed: (bytes) => metrics.add("enodia_shard_served_bytes_total", bytes),
  });
  /** Experts of each layer; an oversubscribed rank has some of them on its disk. */
  const served = (): readonly (readonly number[])[] =>
    engine.hosted().map((here, layer) => {
      if (!oversubscribed) return here;
      return [...new Set([...here, ...state.planned(layer).filter((expert) => onDisk({ layer, expert }))])].sort((a, b) => a - b);
    });
  const admitReads = (call: Caller) => admitRead(options.caller(call), peers);
  const close = () => {
    for (const part of [plan, connections, heartbeats, peers, prefetch]) part?.close();
  };
  return {
    oversubscribed,
    peers,
    state,
    plan,
    residents,
    materializer,
    pace,
    onDemand,
    ...{ prefetch, predictor: options.predictor },
    served,
    heartbeats,
    connections,
    heartbeatHandler,
    unitSource,
    admitReads,
    close,
  };
}

/** Where this rank's experts are, and what leaves first (../experts/DECISIONS.md 7). */
function memoryOf(options: ExpertsOptions, reads: StoreReads, pace: TransferPace, state: PlanState) {
  const { engine, info, remoteModel, log } = options;
  const atOnce = loadsAtOnce(availableParallelism(), info.expertResidentBytes);
  const wanted = (layer: number, expert: number): boolean => state.wanted(layer).has(expert);
  const prefetch = options.oversubscribed
    ? new PrefetchLoads({
        materializer: { ensure: (request) => materializer.ensure(request), storedBytes: (expert) => materializer.storedBytes(expert) },
        isResident: (expert) => residents.isResident(expert),
        experts: info.experts,
        eviction: evictions["next-use"].create({ grid: info }),
        sourcesOf: (layer, expert) => state.sources(layer, expert),
        wanted,
        // A planned expert stays until the plan releases it, since senders may route by it.
        loaded: ({ layer, expert }) => wanted(layer, expert) && residents.admit({ layer, expert }, "planned"),
        atOnce,
      })
    : undefined;
  const residents: ResidentSet = new ResidentSet({
    budgetBytes: options.budgetBytes,
    bytesOf: ({ layer, expert }) => residentBytesOf(info, layer, expert),
    now: () => performance.now(),
    worth: prefetch && ((expert) => prefetch.worth(expert)),
    onGone: (expert) => prefetch?.gone(expert),
  });
  const onDisk = ({ layer, expert }: ResidentExpert) => remoteModel?.kept.isKnown(layer, expert) !== false;
  const device = deviceOf(engine);
  const materializer: Materializer = new Materializer({
    device,
    residents,
    ...below(options, reads),
    onDisk,
    pace,
    log,
    loadsAtOnce: atOnce,
  });
  return { atOnce, materializer, onDisk, prefetch };
}

export function asWorker(identity: PeerIdentity): Extract<PeerIdentity, { role: "worker" }> {
  if (identity.role === "worker") return identity;
  throw new AppError(`a ${identity.role} may not call this`, { code: "Forbidden", operation: "Experts" });
}

function below({ peers, store, remoteModel, oversubscribed, info, metrics, log }: ExpertsOptions, reads: StoreReads) {
  const reporting = { time: new SharedTime(() => performance.now()), report: (outcome: FetchOutcome) => reportFetch(metrics, outcome) };
  const units = store.index.codecs[info.codec]?.units;
  const others = new PeerTier({ peers, store, codec: info.codec, ...reporting });
  const tiersOf = ({ weightServer, kept }: RemoteModel) => {
    const last = new WeightServerTier({ weightServer, store, codec: info.codec, ...reporting });
    return [keptTier(kept, reads, reporting), keeping(others, kept, log), keeping(last, kept, log)];
  };
  const disk = storeTier(reads, reporting);
  // A peer of an oversubscribed rank reads from its disk as well.
  const mounted = oversubscribed ? [orElse(disk, others)] : [others, disk];
  return {
    tiers: inOrder(remoteModel ? tiersOf(remoteModel) : mounted),
    storedBytes: ({ layer, expert }: ResidentExpert) => units?.[layer]?.[expert]?.bytes ?? 0,
  };
}

function deviceOf(engine: Pick<Engine, "loadExpert" | "unloadExpert">): Device {
  return {
    load: ({ layer, expert }, unit) => engine.loadExpert(layer, expert, unit),
    unload: ({ layer, expert }) => engine.unloadExpert(layer, expert),
  };
}

/** A pod that joins may come before the membership that names it, and asks again. */
function admitRead(identity: PeerIdentity, peers: Peers): void {
  const forbidden = (why: string) => new AppError(why, { code: "Forbidden", operation: "bulk reads", retry: "backoff" });
  if (identity.role === "operator") throw forbidden("an operator may not call this");
  if (identity.role !== "worker") return;
  const member = peers.member(identity.rank);
  if (member !== undefined && isCertified(identity, member)) return;
  const known = member ? `pod ${member.podName}` : "not known here yet";
  throw forbidden(`pod ${identity.podName} is not a member: rank ${identity.rank} is ${known}`);
}

function directoryOf(options: ExpertsOptions, state: PlanState, onCounts: (counts: PeerCounts) => void): PeerDirectory {
  const { engine, peers, tls, metrics, log } = options;
  return new PeerDirectory({
    connections: engine.connections,
    peers,
    tls,
    log,
    plan: state,
    onCounts: (counts) => {
      reportPeerCounts(metrics, counts);
      onCounts(counts);
    },
  });
}

function reportPeerCounts(metrics: Metrics<"worker">, { connections, sent, served }: PeerCounts): void {
  metrics.set("enodia_dispatch_engine_connections", connections);
  for (const result of frameResults) {
    metrics.add("enodia_dispatch_frames_total", sent.results[result], { result });
    metrics.add("enodia_dispatch_served_frames_total", served.results[result], { result });
  }
  metrics.add("enodia_dispatch_retries_total", sent.retries);
  metrics.add("enodia_dispatch_bytes_total", sent.bytes, { direction: "sent" });
  metrics.add("enodia_dispatch_bytes_total", sent.received, { direction: "received" });
  for (const seconds of sent.seconds) metrics.observe("enodia_dispatch_duration_seconds", seconds);
  for (const { part, seconds } of sent.stalls) metrics.observe("enodia_dispatch_stall_seconds", seconds, { part });
}

function reportPace(metrics: Metrics<"worker">, log: Log, { share, reason, message }: BackoffDecision, before: number): void {
  const slower = share < before;
  if (slower) metrics.add("enodia_transfer_backoffs_total", 1);
  // Only slowing down and the return to the full rate are worth a line.
  log[slower || share === 1 ? "info" : "debug"]({ share, reason }, `transfers go ${slower ? "slower" : "faster"}: ${message}`);
}

function reportFetch(metrics: Metrics<"worker">, { source, result, bytes, seconds }: FetchOutcome): void {
  metrics.add("enodia_shard_fetches_total", 1, { source, result });
  if (result !== "ok") return;
  metrics.add("enodia_shard_fetch_bytes_total", bytes, { source });
  metrics.observe("enodia_shard_fetch_duration_seconds", seconds, { source });
}
