// A worker process: opens the model, serves Control, gets its plan from the operator or a peer, then serves tokens and experts.
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../../crds/common.ts";
import { prefetchPredictors } from "../../crds/experts-spec.ts";
import type { PredictorName } from "../../crds/names.ts";
import type { WorkerSettings } from "../../crds/process.ts";
import { createEngine, type Engine, type EngineInfo, type EngineOptions } from "../engine/engine.ts";
import { KeptUnits } from "../experts/memory/kept-units.ts";
import { SharedTime } from "../experts/memory/shared-time.ts";
import { StoreReads } from "../experts/memory/store-reads.ts";
import { inOrder } from "../experts/memory/tier.ts";
import { keeping, keptTier, type RemoteModel, WeightServerTier } from "../experts/memory/weight-server-tier.ts";
import { WeightServer } from "../experts/weight-client.ts";
import { refusalReport } from "../net/connections.ts";
import { type FileFolder, openTextFolder, textSources } from "../net/file-reads.ts";
import { Inference } from "../net/gen/enodia/runtime/v1/runtime_pb.js";
import { callerOf, createServer, grpcNetwork } from "../net/grpc.ts";
import type { Identity } from "../net/mapping.ts";
import { accessAt, type Bus, createBus } from "../net/nats.ts";
import { resolvePeers } from "../net/peer-snapshot.ts";
import { prefixRoot } from "../net/prefix-ids.ts";
import { folderTls, type TlsSource } from "../net/tls.ts";
import { createHealth, type Health, serveHealth } from "../observe/health.ts";
import { createLog, type Log } from "../observe/log.ts";
import { createMetrics, type Metrics } from "../observe/runtime-metrics.ts";
import { steadyClock } from "../observe/steady-clock.ts";
import { createTracing, type Tracing } from "../observe/trace.ts";
import type { ModelStore } from "../weights/store.ts";
import { openStore } from "../weights/store-reader.ts";
import type { WorkerVitals } from "./control.ts";
import { expertBudgetBytes, rankMemory } from "./expert-bytes.ts";
import { OnDemandSocket, type WorkerExperts } from "./experts.ts";
import { fetchStore } from "./fetch-store.ts";
import { createInferenceServer } from "./inference.ts";
import { KeptAnswers } from "./kept-answers.ts";
import { KvDisk } from "./kv-disk.ts";
import { PrefixLog } from "./prefix-log.ts";
import { createWorkerPlane, type WorkerPlane } from "./worker-plane.ts";
import { machineId, signingKeyAt } from "./worker-telemetry.ts";

const lastFramesMs = 500;
/** Milliseconds beside the grace within which a step ends before the engine is closed all the same. */
const drainMsMax = 10_000;
const idlePollMs = 20;
const answersSweepMs = 1_000;
/** Milliseconds. */
const weightServerRetryMs = 2_000;

export interface WorkerOptions extends WorkerSettings {
  /** The listen address; unset = all. */
  readonly host?: string;
  readonly version: string;
}

/** Set in tests only. */
export interface WorkerOverrides {
  readonly tls?: TlsSource;
  readonly log?: Log;
  readonly bus?: Bus;
  readonly tracing?: Tracing;
  readonly createEngine?: (options: EngineOptions) => Promise<Engine>;
  readonly peers?: () => Promise<string[]>;
  readonly weightServer?: () => Promise<readonly string[]>;
  readonly streamIdleMs?: number;
}

export interface Worker {
  readonly identity: Identity;
  readonly grpcPort: number;
  readonly metricsPort: number;
  readonly probePort: number;
  readonly health: Health;
  readonly engine: Engine;
  readonly experts: WorkerExperts;
  readonly metrics: Metrics<"worker">;
  handOver(graceMs: number): Promise<void>;
  close(graceMs: number): Promise<void>;
}

interface Base {
  readonly options: WorkerOptions;
  readonly overrides: WorkerOverrides;
  readonly identity: Identity;
  readonly log: Log;
  readonly metrics: Metrics<"worker">;
  readonly health: Health;
  readonly tracing: Tracing;
  readonly tls: TlsSource;
}

export async function startWorker(options: WorkerOptions, overrides: WorkerOverrides = {}): Promise<Worker> {
  await using opened = new AsyncDisposableStack(); // closed in reverse when the start fails; else by close()
  const { namespace, deployment, rank, deploymentUid, podUid } = options;
  const fields = { namespace, deployment, rank, pod: options.podName };
  const log = overrides.log ?? createLog({ level: options.logLevel, name: "worker", fields });
  const metrics = createMetrics({ process: "worker", version: options.version, constants: { namespace, deployment, rank: String(rank) } });
  opened.defer(() => metrics.close());
  const health = createHealth({ start: "opening the model" });
  const { probePort, metricsPort, host = "0.0.0.0" } = options;
  const healthServer = await serveHealth({ health, metrics, probePort, metricsPort, host, log });
  opened.defer(() => healthServer.close());
  const attributes = {
    "k8s.namespace.name": namespace,
    "k8s.pod.name": options.podName,
    "enodia.deployment": deployment,
    "enodia.rank": rank,
  };
  const { otlpEndpoint: endpoint, traceRatio: ratio } = options;
  const tracing = overrides.tracing ?? (await createTracing({ service: "worker", endpoint, ratio, attributes }));
  opened.defer(() => tracing.close());
  const tls = overrides.tls ?? folderTls(options.tlsDir);
  opened.defer(() => tls.close());
  const identity: Identity = { deploymentUid, rank, podUid, bootId: randomUUID() };
  const base: Base = { options, overrides, identity, log, metrics, health, tracing, tls };

  const weightServer = weightServerOf(base);
  opened.defer(() => weightServer?.close());
  if (weightServer)
    await fetchStore({ weightServer, codec: options.codec, dir: options.modelDir, waits: (why) => health.notReady("start", why), log });
  health.notReady("start", "opening the model");
  const store = await openStore(options.modelDir, { rereads: options.oversubscription === "Allow" });
  opened.defer(() => store.close());
  const remoteModel = weightServer && (await openRemoteModel(base, weightServer, store));
  opened.defer(() => remoteModel?.kept.close());
  const text = await openTextFolder(options.modelDir);
  const onDemand = new OnDemandSocket();
  const engine = await (overrides.createEngine ?? createEngine)(engineOptionsOf(options, onDemand));
  opened.defer(() => engine.close());
  const info = engine.describe();
  log.info(
    {
      device: info.device,
      backend: info.backend,
      layers: info.layers,
      experts: info.experts,
      kvSlots: info.kvSlots,
      kvBlocks: info.kvBlocks,
    },
    "model opened",
  );
  if (info.warning !== undefined) log.warn({ device: info.device }, info.warning);

  const kvDisk = await openKvDisk(base, engine);
  opened.defer(() => kvDisk?.close());
  const budgetBytes = expertBudgetBytes(options.expertBudgetBytes, { ...info, kvBytes: info.kvBytes + options.kvOffloadBytes });
  const running = await serve(base, { store, remoteModel, text, engine, info, onDemand, kvDisk, budgetBytes }, opened);
  health.ready("start");
  const all = opened.move();
  let closed: Promise<void> | undefined;
  const close = (graceMs: number) => {
    if (closed !== undefined) return closed;
    health.notReady("stopping", "the process was told to stop");
    all.defer(() => running.leave(graceMs));
    closed = all.disposeAsync();
    return closed;
  };
  const { grpcPort, experts } = running;
  const listening = { grpcPort, metricsPort: healthServer.metricsPort, probePort: healthServer.probePort };
  const { handOver } = running;
  return { identity, ...listening, health, engine, experts, metrics, handOver, close };
}

/** What is unset is left to the engine. */
const engineOptionsOf = (options: WorkerOptions, onDemand: OnDemandSocket): EngineOptions => ({
  storeDir: options.modelDir,
  backend: options.backend,
  codec: options.codec,
  tryDevice: true,
  devices: options.devices,
  deviceExpertBytes: options.deviceExpertBytes,
  deviceDenseBytes: options.deviceDenseBytes,
  onDemand,
  oversubscribed: options.oversubscription === "Allow",
  minGatePercent: options.minGatePercent,
  prefetch: predictorOf(options),
  kvPoolBytes: options.kvPoolBytes,
  prefillParallelism: options.prefillParallelism,
  memory: { ...rankMemory(options.expertBudgetBytes), offloadBytes: options.kvOffloadBytes },
  kvOffloadBytes: options.kvOffloadBytes,
  maxContext: options.maxContext,
  limits: {
    ...(options.maxBatchTokens === undefined ? {} : { maxBatchTokens: options.maxBatchTokens }),
    maxDecodeBatch: options.maxDecodeBatch,
    decodeWaitMs: options.decodeWaitMs,
    draftTokens: options.draftTokens,
  },
  ...(options.kvType === undefined ? {} : { kvType: options.kvType }),
  ...(options.threads === undefined ? {} : { threads: options.threads }),
  ...(options.wholeCpus === undefined ? {} : { wholeCpus: options.wholeCpus }),
});

/** Undefined where nothing is loaded ahead. */
const predictorOf = ({ oversubscription, prefetch }: WorkerOptions): PredictorName | undefined =>
  oversubscription === "Allow" ? prefetchPredictors[prefetch] : undefined;

/** Undefined for a rank that mounts the model. */
function weightServerOf({ options, overrides, identity, tls, log }: Base): WeightServer | undefined {
  const { weightServerDns: dns, namespace, deployment: name, podIp, grpcPort } = options;
  if (dns === undefined) return undefined;
  const addresses = overrides.weightServer ?? (() => resolvePeers(dns, grpcPort, podIp, log));
  return new WeightServer({ self: identity, namespace, name, tls, network: grpcNetwork, addresses });
}

async function openRemoteModel({ options, health, log }: Base, weightServer: WeightServer, store: ModelStore): Promise<RemoteModel> {
  const { codec, modelDir } = options;
  const kept = await KeptUnits.open(modelDir, store.index, codec);
  const layer = store.layerShapes.findIndex(({ experts }) => experts > 0);
  const report = () => {};
  const tiers = inOrder([
    keptTier(kept, new StoreReads(store, codec), { time: new SharedTime(() => performance.now()), report }),
    keeping(new WeightServerTier({ weightServer, store, codec, time: new SharedTime(() => performance.now()), report }), kept, log),
  ]);
  const request = { layer, expert: 0, sources: [], bytesPerSecond: 0, rate: 0, signal: new AbortController().signal };
  while (layer >= 0) {
    try {
      await tiers.read(request);
      break;
    } catch (caught) {
      health.notReady("start", `waits for an expert to measure the engine by: ${AppError.from(caught).message}`);
      await sleep(weightServerRetryMs);
    }
  }
  return { weightServer, kept };
}

/** Undefined without a disk tier; a folder that refuses costs a warning. */
async function openKvDisk({ options, metrics, log }: Base, engine: Engine): Promise<KvDisk | undefined> {
  const { kvOffloadBytes, kvDiskBytes: bytes, kvDiskDir: dir } = options;
  if (kvOffloadBytes === 0 || bytes === 0 || engine.kv === undefined) return undefined;
  try {
    return await KvDisk.open({ dir, bytes, info: engine.describe(), kv: engine.kv, metrics, log });
  } catch (caught) {
    const error = AppError.from(caught);
    if (error.code === "KvOffloadTooSmall") throw error;
    log.warn({ err: error, dir }, "keys and values are kept in memory alone");
    return undefined;
  }
}

interface Model {
  readonly store: ModelStore;
  readonly remoteModel: RemoteModel | undefined;
  readonly text: FileFolder;
  readonly engine: Engine;
  readonly info: EngineInfo;
  readonly onDemand: OnDemandSocket;
  readonly kvDisk: KvDisk | undefined;
  readonly budgetBytes: number;
}

async function serve(base: Base, model: Model, opened: AsyncDisposableStack) {
  const { options, identity, log, metrics, health, tracing, tls } = base;
  const { store, remoteModel, text, engine, info, onDemand, kvDisk, budgetBytes } = model;
  const { namespace, deployment: name, podName } = options;
  const plane = createWorkerPlane({
    identity,
    namespace,
    name,
    podName,
    network: grpcNetwork,
    tls,
    store,
    remoteModel,
    textDigest: text.digest,
    textSources: textSources(text, (call) => callerOf(call, namespace, name)),
    engine,
    info,
    onDemand,
    kvDisk,
    budgetBytes,
    oversubscribed: options.oversubscription === "Allow",
    predictor: predictorOf(options),
    clock: steadyClock(),
    streamIdleMs: base.overrides.streamIdleMs,
    health,
    metrics,
    tracing,
    log,
  });
  opened.defer(() => plane.close());
  const { experts } = plane;
  await plane.openConnections(options.host ?? "0.0.0.0", options.enginePort);
  const server = createServer(tls, refusalReport("control", { log, metrics }));
  let lastFrames = 0; // streams of peers and operator never end by themselves; current work on them has this long
  opened.defer(() => server.close(lastFrames));
  plane.serve(server);
  const answers = new KeptAnswers(() => performance.now());
  const sweeps = setInterval(() => answers.sweep(), answersSweepMs).unref();
  opened.defer(() => clearInterval(sweeps));
  metrics.onCollect(() => showAnswers(answers, metrics));
  server.add(Inference, inference(base, engine, plane, answers));
  const grpcPort = await server.listen(options.host ?? "0.0.0.0", options.grpcPort);
  const bus = openBus(base);
  opened.defer(() => bus?.close());
  const { peersDns, podIp, natsPrefix: prefix, telemetryWindowMs: windowMs } = options;
  const byDns = async () => (peersDns === undefined ? [] : resolvePeers(peersDns, grpcPort, podIp, log));
  const stop = plane.start({
    peerAddresses: base.overrides.peers ?? byDns,
    load: {
      bus,
      prefix,
      windowMs,
      machine: info.sharesCores ? machineId() : undefined,
      signingKey: signingKeyAt(options.telemetryKeys, log),
    },
  });
  opened.defer(stop);
  const leave = async (graceMs: number) => {
    lastFrames = Math.min(graceMs, lastFramesMs);
    await Promise.race([plane.leaving.drain(true), sleep(graceMs + drainMsMax, undefined, { ref: false })]);
    await idle(engine, graceMs);
  };
  return { grpcPort, experts, handOver: (graceMs: number) => plane.leaving.handOver(graceMs), leave };
}

function openBus({ options, overrides, metrics, log }: Base): Bus | undefined {
  const { natsUrl: url, natsCreds, podName: name } = options;
  const access = natsCreds === undefined ? undefined : accessAt(natsCreds);
  const bus = overrides.bus ?? (url === undefined ? undefined : createBus({ url, access, name }));
  metrics.onCollect(() => metrics.set("enodia_nats_connected", bus?.status.connected ? 1 : 0));
  bus?.onStatus((status) => log.info({ ...status }, "NATS"));
  return bus;
}

function showAnswers({ size }: KeptAnswers, metrics: Metrics<"worker">): void {
  metrics.set("enodia_worker_kept_answers", size.answers);
  metrics.set("enodia_worker_kept_bytes", size.bytes);
}

function inference({ options, metrics, tracing, log }: Base, engine: Engine, plane: WorkerPlane, answers: KeptAnswers) {
  const { experts, leaving, record, vitals, caller } = plane;
  const { modelDigest, numerics } = engine.describe();
  const prefixes = new PrefixLog(prefixRoot(modelDigest, numerics));
  engine.onPrefixes?.((changed) => prefixes.add(changed));
  return createInferenceServer({
    engine,
    answers,
    deploymentUid: options.deploymentUid,
    caller,
    metrics,
    tracing,
    log,
    notReady: () => experts.plan.notReady(),
    refuses: () => leaving.refuses(),
    record,
    kvUse: () => kvUse(vitals()),
    prefixes,
    bringKv: plane.bringKv,
    onGap: (ms) => {
      experts.pace.token(ms);
      record.gap(ms);
    },
  });
}

/** Reusable prefixes count as free. */
const kvUse = ({ use }: WorkerVitals): number | undefined => use && use.kvBlocksUsed / use.kvBlocks;

/** Resolves once no request is open, or after maxMs. */
async function idle(engine: Engine, maxMs: number): Promise<void> {
  const end = performance.now() + maxMs;
  while (engine.load().activeRequests > 0 && performance.now() < end) await new Promise((resolve) => setTimeout(resolve, idlePollMs));
}
