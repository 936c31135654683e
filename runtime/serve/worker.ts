// A worker process: opens the model, serves Control at once, gets its plan from the operator or a peer, and then serves
// tokens and experts until it is told to stop. Construction and life cycle; the work is in the files it imports.
import { randomUUID } from "node:crypto";
import { createEngine, type Engine, type EngineInfo, type EngineOptions } from "../engine/engine.ts";
import { Peers } from "../experts/peers.ts";
import { createHealth, type Health, serveHealth } from "../observe/health.ts";
import { createLog, type Log } from "../observe/log.ts";
import { createMetrics, type Metrics } from "../observe/metrics.ts";
import { createTracing, type Tracing } from "../observe/trace.ts";
import type { ModelStore } from "../weights/store.ts";
import { openStore } from "../weights/store-reader.ts";
import { Control, Experts, Inference, Shards } from "../wire/gen/enodia/runtime/v1/runtime_pb.js";
import { type Caller, callerOf, createServer } from "../wire/grpc.ts";
import type { Identity } from "../wire/mapping.ts";
import { type Bus, createBus, credentialsAt } from "../wire/nats.ts";
import { folderTls, type PeerIdentity, type TlsSource } from "../wire/tls.ts";
import { expertBudgetBytes } from "./expert-budget.ts";
import { machineId } from "./machine.ts";
import { WorkerControl } from "./worker-control.ts";
import { createWorkerExperts, RemoteSocket, type WorkerExperts } from "./worker-experts.ts";
import { createInferenceServer } from "./worker-generate.ts";
import { askPeers, resolvePeers } from "./worker-join.ts";
import { watchVitals } from "./worker-metrics.ts";
import { publishLoad } from "./worker-telemetry.ts";

/** How often a worker without plan or operator asks its peers. */
const joinEveryMs = 1_000;
const lastFramesMs = 500;
const idlePollMs = 20;

export interface WorkerOptions {
  readonly namespace: string;
  readonly deployment: string;
  readonly deploymentUid: string;
  readonly podName: string;
  readonly podUid: string;
  readonly podIp?: string | undefined;
  readonly rank: number;
  readonly modelDir: string;
  readonly peersDns?: string | undefined;
  readonly tlsDir: string;
  readonly host?: string;
  readonly grpcPort: number;
  readonly metricsPort: number;
  readonly maxContext: number;
  readonly backend: "Auto" | "cpu" | "webgpu" | "reference";
  readonly codec: "int4" | "f32";
  readonly kvPoolBytes: number;
  readonly expertBudgetBytes: number;
  readonly threads?: number | undefined;
  readonly natsUrl?: string | undefined;
  readonly natsCreds?: string | undefined;
  readonly natsPrefix: string;
  readonly telemetryWindowMs: number;
  readonly logLevel: "trace" | "debug" | "info" | "warn" | "error" | "silent";
  readonly otlpEndpoint?: string | undefined;
  readonly version: string;
}

/** What tests replace; production leaves all of it out. */
export interface WorkerOverrides {
  readonly tls?: TlsSource;
  readonly log?: Log;
  readonly bus?: Bus;
  readonly tracing?: Tracing;
  readonly createEngine?: (options: EngineOptions) => Promise<Engine>;
  /** Addresses to ask instead of the headless Service's. */
  readonly peers?: () => Promise<string[]>;
}

export interface Worker {
  readonly identity: Identity;
  readonly grpcPort: number;
  readonly metricsPort: number;
  readonly health: Health;
  readonly engine: Engine;
  readonly experts: WorkerExperts;
  readonly metrics: Metrics<"worker">;
  /** Open requests end with `draining`, so that gateways go on elsewhere; frames in work end; then everything closes. */
  close(graceMs: number): Promise<void>;
}

/** What every later step of the start needs. */
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
  const { namespace, deployment, rank, deploymentUid, podUid } = options;
  const fields = { namespace, deployment, rank, pod: options.podName };
  const log = overrides.log ?? createLog({ level: options.logLevel, name: "worker", fields });
  const metrics = createMetrics({ process: "worker", version: options.version, constants: { namespace, deployment, rank: String(rank) } });
  const health = createHealth({ start: "opening the model" });
  const healthServer = await serveHealth({ health, metrics, port: options.metricsPort, host: options.host ?? "0.0.0.0", log });
  const attributes = {
    "k8s.namespace.name": namespace,
    "k8s.pod.name": options.podName,
    "enodia.deployment": deployment,
    "enodia.rank": rank,
  };
  const tracing = overrides.tracing ?? (await createTracing({ service: "worker", endpoint: options.otlpEndpoint, attributes }));
  const tls = overrides.tls ?? folderTls(options.tlsDir);
  const identity: Identity = { deploymentUid, rank, podUid, bootId: randomUUID() };
  const base: Base = { options, overrides, identity, log, metrics, health, tracing, tls };

  const store = await openStore(options.modelDir);
  const remote = new RemoteSocket();
  const engine = await (overrides.createEngine ?? createEngine)({
    ...{ storeDir: options.modelDir, backend: options.backend, codec: options.codec, remote },
    ...{ kvPoolBytes: options.kvPoolBytes, maxContext: options.maxContext },
    ...(options.threads === undefined ? {} : { threads: options.threads }),
  });
  const info = engine.describe();
  log.info(
    { device: info.device, backend: info.backend, layers: info.layers, experts: info.experts, kvSlots: info.kvSlots },
    "model opened",
  );

  const running = await serve(base, { store, engine, info, remote, budgetBytes: expertBudgetBytes(options.expertBudgetBytes, info) });
  health.ready("start");
  const close = async (graceMs: number) => {
    health.notReady("stopping", "the process was told to stop");
    await running.close(graceMs);
    await engine.close();
    await store.close();
    await Promise.all([healthServer.close(), metrics.close(), tracing.close()]);
    tls.close();
  };
  return { identity, grpcPort: running.grpcPort, metricsPort: healthServer.port, health, engine, experts: running.experts, metrics, close };
}

interface Model {
  readonly store: ModelStore;
  readonly engine: Engine;
  readonly info: EngineInfo;
  readonly remote: RemoteSocket;
  /** Resident bytes that experts may take. */
  readonly budgetBytes: number;
}

async function serve(base: Base, model: Model) {
  const { options, identity, log, metrics, health, tls } = base;
  const { store, engine, info, remote, budgetBytes } = model;
  const { namespace, deployment: name } = options;
  const caller = (call: Caller) => callerOf(call, namespace, name);
  const peers = new Peers({ self: identity, namespace, name, tls, log });
  let draining = false;
  let control: WorkerControl | undefined;
  const refresh = () => {
    const reason = experts.plan.notReady();
    if (reason === undefined) health.ready("plan");
    else health.notReady("plan", reason);
    if (draining) health.notReady("drain", "draining");
    else health.ready("drain");
    control?.changed();
  };
  const join = createJoiner(base, peers, () => experts);
  const experts = createWorkerExperts({
    ...{ engine, info, store, peers, budgetBytes, caller, metrics, log, tracing: base.tracing },
    onChange: () => refresh(),
    onNewerEpoch: (rank) => void join.from(rank),
  });
  remote.connect(experts.dispatch);
  const drain = async (on: boolean) => {
    draining = on;
    await engine.drain(on);
    refresh();
  };
  const vitals = watchVitals({
    engine,
    info,
    experts,
    peers,
    metrics,
    budgetBytes,
    draining: () => draining,
    health,
  });
  const storedUnitBytes = unitBytes(store, options.codec);
  control = new WorkerControl({ podName: options.podName, info, storedUnitBytes, peers, plan: experts.plan, vitals, drain, caller, log });

  const server = createServer(tls);
  server.add(Control, control.handlers());
  server.add(Experts, experts.expertsService);
  server.add(Shards, experts.shardsService);
  server.add(Inference, inference(base, engine, experts, caller));
  refresh();
  const grpcPort = await server.listen(options.host ?? "0.0.0.0", options.grpcPort);
  const creds = options.natsCreds === undefined ? undefined : credentialsAt(options.natsCreds);
  const bus =
    base.overrides.bus ??
    (options.natsUrl === undefined ? undefined : createBus({ url: options.natsUrl, credentials: creds, name: options.podName }));
  metrics.onCollect(() => metrics.set("enodia_nats_connected", bus?.status.connected ? 1 : 0));
  const stopTelemetry = bus === undefined ? () => {} : startTelemetry(base, model, bus, peers);
  const stopJoin = join.start(() => control?.operatorPresent ?? false, grpcPort);
  const close = async (graceMs: number) => {
    await drain(true);
    stopJoin();
    stopTelemetry();
    await idle(engine, graceMs);
    // Streams of peers and operator never end by themselves; what is in work on them now has this long.
    await server.close(Math.min(graceMs, lastFramesMs));
    experts.close();
    await bus?.close();
  };
  return { grpcPort, experts, close };
}

function inference(
  { options, metrics, tracing, log }: Base,
  engine: Engine,
  experts: WorkerExperts,
  caller: (call: Caller) => PeerIdentity,
) {
  return createInferenceServer({
    ...{ engine, deploymentUid: options.deploymentUid, caller, metrics, tracing, log },
    notReady: () => experts.plan.notReady(),
    onGap: (ms) => experts.pace.token(ms),
  });
}

/** Resolves once no request is open, or after maxMs. */
async function idle(engine: Engine, maxMs: number): Promise<void> {
  const end = performance.now() + maxMs;
  while (engine.load().activeRequests > 0 && performance.now() < end) await new Promise((resolve) => setTimeout(resolve, idlePollMs));
}

function startTelemetry(base: Base, { engine, info }: Model, bus: Bus, peers: Peers): () => void {
  const { options, identity, metrics, log } = base;
  bus.onStatus((status) => log.info({ ...status }, "NATS"));
  return publishLoad({
    ...{ engine, bus, self: identity, namespace: options.namespace, name: options.deployment, prefix: options.natsPrefix },
    ...{ layers: info.layers, experts: info.experts, windowMs: options.telemetryWindowMs, metrics, log },
    machine: info.sharesCores ? machineId() : undefined,
    transitions: () => peers.membership.sampleTransitions ?? false,
  });
}

/** One value when all units have the same size, as they do in one model and codec so far. */
function unitBytes(store: ModelStore, codec: WorkerOptions["codec"]): number[] {
  const all = (store.index.codecs[codec]?.units ?? []).flatMap((layer) => layer.map((unit) => unit.bytes));
  return new Set(all).size === 1 ? all.slice(0, 1) : all;
}

/** Gets plan and membership from peers: on a timer while the operator is away and something is missing, or from one rank now. */
function createJoiner(base: Base, peers: Peers, experts: () => WorkerExperts) {
  const { options, overrides, identity, tls, log } = base;
  const ask = { self: identity, namespace: options.namespace, name: options.deployment, tls, log };
  let busy = false;
  const take = async (addresses: () => Promise<readonly string[]>) => {
    if (busy) return;
    busy = true;
    try {
      const { plan, membership } = await askPeers(await addresses(), ask);
      if (membership !== undefined) peers.apply(membership);
      if (plan !== undefined) await experts().plan.adopt(plan);
    } catch (err) {
      log.warn({ err }, "what a peer sent was refused");
    } finally {
      busy = false;
    }
  };
  return {
    from: (rank: number) => {
      const address = peers.member(rank)?.address;
      return address === undefined ? Promise.resolve() : take(async () => [address]);
    },
    start: (operatorPresent: () => boolean, grpcPort: number) => {
      const byDns = () =>
        options.peersDns === undefined ? Promise.resolve([]) : resolvePeers(options.peersDns, grpcPort, options.podIp, log);
      const timer = setInterval(() => {
        const complete = peers.membership.version > 0 && experts().state.complete;
        if (!complete && !operatorPresent()) void take(overrides.peers ?? byDns);
      }, joinEveryMs);
      timer.unref();
      return () => clearInterval(timer);
    },
  };
}
