// The gateway process: worker pool, Control server, tokenizer, HTTP API, health. Wiring only; started by runtime/main.ts.
import { randomBytes, randomUUID } from "node:crypto";
import { type AppError, gatewayRank } from "../../crds/common.ts";
import type { GatewayJwt } from "../../crds/gateway-jwt.ts";
import type { MemberState } from "../../crds/names.ts";
import type { GatewaySettings } from "../../crds/process.ts";
import { Control } from "../net/gen/enodia/runtime/v1/runtime_pb.js";
import { createServer, grpcNetwork } from "../net/grpc.ts";
import type { Identity, Membership } from "../net/mapping.ts";
import { askPeers, resolvePeers } from "../net/peer-snapshot.ts";
import { folderTls, type TlsSource } from "../net/tls.ts";
import { createHealth, type Health, serveHealth } from "../observe/health.ts";
import { createLog, type Log } from "../observe/log.ts";
import { createMetrics, type Metrics } from "../observe/metrics.ts";
import { steadyClock } from "../observe/steady-clock.ts";
import { createTracing, type Tracing } from "../observe/trace.ts";
import type { TextModel } from "../text/text-model.ts";
import { openTextModel } from "../text/text-thread.ts";
import { createApp } from "./api/app.ts";
import { listenHttp } from "./api/http-server.ts";
import { ApiKeys } from "./auth/api-key.ts";
import { Door, type Tokens } from "./auth/authenticator.ts";
import { ClientLimits } from "./auth/client-limits.ts";
import { IssuerKeys, type IssuerLimits, issuerLimits } from "./auth/issuer-keys.ts";
import { controlHandlers } from "./control.ts";
import { fetchText } from "./fetch-text.ts";
import { modelContext } from "./model-context.ts";
import { Admission } from "./routing/admission.ts";
import { type FailoverLimits, failoverLimits } from "./routing/patience.ts";
import type { PoolLoad } from "./routing/pool-metrics.ts";
import { WorkerPool } from "./routing/worker-pool.ts";
import { textSources } from "./text-sources.ts";

/** Requests inside a gateway at once, waiting ones included, when the deployment names no other number. */
const queueRequestsMaxDefault = 512;
const requestTimeoutMs = 600_000;
/** No worker ready for longer than this: new requests are refused instead of waiting for one. */
const unreadyGraceMs = 60_000;
/** Endpoints take about this long to leave kube-proxy after a pod is told to stop. */
const stopListeningAfterMs = 3_000;
const controlCloseMs = 500;
/** The operator usually comes first; peers are for when it is away. */
const askPeersEveryMs = 2_000;

/** Settings that the operator gives the gateway through its environment, and those that the process has of itself. */
export interface GatewayConfig extends GatewaySettings {
  /** Address that its servers listen on; all when not given. */
  readonly host?: string;
  readonly version: string;
}

/** The parts that tests replace; production leaves all of it out. */
export interface GatewayOverrides {
  readonly tls?: TlsSource;
  readonly textModel?: TextModel;
  readonly limits?: FailoverLimits;
  readonly issuerLimits?: IssuerLimits;
  readonly log?: Log;
  readonly tracing?: Tracing;
  readonly drawSeed?: () => bigint;
  /** Addresses to ask instead of the headless Service's. */
  readonly peers?: () => Promise<string[]>;
}

export interface Gateway {
  readonly httpPort: number;
  readonly grpcPort: number;
  readonly metricsPort: number;
  readonly probePort: number;
  readonly pool: WorkerPool;
  readonly health: Health;
  /** Takes a membership as the operator's watch pushes it. */
  apply(membership: Membership): void;
  /** Stops taking requests, lets running ones end for up to graceMs, then cuts them. */
  close(graceMs: number): Promise<void>;
}

export async function startGateway(config: GatewayConfig, overrides: GatewayOverrides = {}): Promise<Gateway> {
  await using opened = new AsyncDisposableStack(); // closed in reverse when the start fails; else by close()
  const { namespace, deployment, podName, host = "0.0.0.0" } = config;
  const log = overrides.log ?? createLog({ level: config.logLevel, name: "gateway", fields: { namespace, deployment, pod: podName } });
  const metrics = createMetrics({ process: "gateway", version: config.version, constants: { namespace, deployment } });
  opened.defer(() => metrics.close());
  const health = createHealth({ workers: "no membership known yet", start: "starting" });
  const healthServer = await serveHealth({ health, metrics, probePort: config.probePort, metricsPort: config.metricsPort, host, log });
  opened.defer(() => healthServer.close());
  const tracing = overrides.tracing ?? (await openTracing(config));
  opened.defer(() => tracing.close());
  const apiKeys = config.apiKeyFile ? await ApiKeys.open(config.apiKeyFile, log) : undefined;
  const issuer = config.jwt && openIssuer(config.jwt, health, { log, limits: overrides.issuerLimits ?? issuerLimits });
  opened.defer(() => issuer?.keys.close());
  const tls = overrides.tls ?? folderTls(config.tlsDir);
  opened.defer(() => tls.close());
  const admission = new Admission(config.queueRequestsMax ?? queueRequestsMaxDefault, metrics);
  // Before the tokenizer: the ranks that have it are those of the membership.
  const members = await joinWorld({ config, overrides, host, log, metrics, health, tracing, tls, admission }, opened);
  const { pool, readiness, onMembership, grpcPort } = members;
  const text = await openText({ config, overrides, health, log, tls, ...members }, opened);
  members.canAnswer();

  const app = createApp({
    ...text,
    workers: pool,
    metrics,
    log,
    tracing,
    admission,
    door: new Door(apiKeys, issuer),
    corsOrigins: config.corsOrigins ?? [],
    clients: new ClientLimits(config.clients ?? [], () => performance.now()), // the clock of a minute is set by nobody
    requestTimeoutMs,
    servedName: config.servedName,
    load: () => loadOf(config.servedName, admission, pool),
    created: Math.floor(Date.now() / 1000),
    limits: overrides.limits ?? failoverLimits,
    drawSeed: overrides.drawSeed ?? (() => randomBytes(8).readBigUInt64LE()),
    now: steadyClock(),
    unavailable: () => readiness.unavailable(),
    holds: () => pool.holdMs() > 0,
  });
  const http = await listenHttp({ fetch: app.fetch, host, port: config.httpPort, tlsDir: config.httpTlsDir, log });
  opened.defer(() => http.close(0));
  health.ready("start");
  log.info({ httpPort: http.port, grpcPort, model: config.servedName }, "gateway listens");

  const kept = opened.move();
  const close = async (graceMs: number) => {
    members.drain();
    health.notReady("start", "stopping");
    http.drain();
    await sleep(Math.min(stopListeningAfterMs, graceMs));
    await http.close(graceMs);
    await kept.disposeAsync();
  };
  const { probePort, metricsPort } = healthServer;
  return { httpPort: http.port, grpcPort, metricsPort, probePort, pool, health, apply: onMembership, close };
}

/** The values that both later steps of the start need. */
interface Base {
  readonly config: GatewayConfig;
  readonly overrides: GatewayOverrides;
  readonly log: Log;
  readonly health: Health;
  readonly tls: TlsSource;
}

interface Joining extends Base {
  readonly host: string;
  readonly metrics: Metrics<"gateway">;
  readonly tracing: Tracing;
  readonly admission: Admission;
}

/** Knows the ranks from here on: serves Control, and asks peers until somebody has told a membership. */
async function joinWorld(
  { config, overrides, host, log, metrics, health, tracing, tls, admission }: Joining,
  opened: AsyncDisposableStack,
) {
  const { namespace, deployment, podName, deploymentUid, podUid } = config;
  const identity: Identity = { deploymentUid, rank: gatewayRank, podUid, bootId: randomUUID() };
  const pool = new WorkerPool({ identity, namespace, deployment, tls, network: grpcNetwork, tracing, ...awayReports(metrics, log) });
  const readiness = new Readiness(pool, health);
  metrics.onCollect(() => showWorkers(pool, metrics));
  const onMembership = (membership: Membership) => readiness.apply(membership, log);
  let draining = false;
  let answers = false;
  const state = {
    membership: () => pool.membership(),
    notReady: () => health.reasons(),
    activeRequests: () => admission.inside,
    draining: () => draining,
    // One that starts has no request and needs ranks all the same: they have its tokenizer.
    idleMs: () => (answers ? admission.idleMs : 0),
    wantsRanks: () => !pool.serves && (admission.inside > 0 || !answers),
    onEnter: (listener: () => void) => admission.onEnter(listener),
  };
  const control = createServer(tls);
  control.add(Control, controlHandlers({ identity, podName, namespace, deployment, log, onMembership, ...state }));
  const grpcPort = await control.listen(host, config.grpcPort);
  opened.defer(() => control.close(controlCloseMs));
  opened.defer(() => pool.close());
  const ask = { self: identity, namespace, name: deployment, tls, network: grpcNetwork, log };
  const addresses = overrides.peers ?? (async () => (config.peersDns ? resolvePeers(config.peersDns, grpcPort, config.podIp, log) : []));
  opened.defer(untilKnown(pool, async () => (await askPeers(await addresses(), ask)).membership, onMembership));
  const drain = () => {
    draining = true;
  };
  const canAnswer = () => {
    answers = true;
  };
  return { identity, pool, readiness, onMembership, grpcPort, drain, canAnswer };
}

interface TextStart extends Base {
  readonly identity: Identity;
  readonly pool: WorkerPool;
  readonly readiness: Readiness;
}

/** The tokenizer, and the tokens that a request may hold, from files that a rank gives. */
async function openText({ config, overrides, health, log, tls, identity, pool, readiness }: TextStart, opened: AsyncDisposableStack) {
  if (overrides.textModel) return { textModel: overrides.textModel, maxContext: config.maxContext };
  const { namespace, deployment, textDir: dir } = config;
  const never = new AbortController().signal;
  let told = "";
  const digest = await fetchText({
    identity,
    namespace,
    deployment,
    tls,
    network: grpcNetwork,
    dir,
    log,
    members: () => pool.membership()?.members,
    changed: (timeoutMs) => pool.changed(timeoutMs, never),
    waits: (reason) => {
      if (reason !== told) log.info({ reason }, "not ready");
      told = reason;
      health.notReady("text", reason);
    },
  });
  const textModel = await openTextModel(dir);
  opened.defer(() => textModel.close());
  readiness.hasText(digest);
  return { textModel, maxContext: Math.min(config.maxContext, await modelContext(dir)) };
}

/** A gateway is not ready before it has the keys once: of a roll that names a wrong issuer the old gateways go on. */
function openIssuer(jwt: GatewayJwt, health: Health, options: { readonly log: Log; readonly limits: IssuerLimits }): Tokens {
  let known = false;
  health.notReady("issuer", `the keys of ${jwt.issuer} are being read`);
  const onRead = (missing: string | undefined) => {
    known ||= missing === undefined;
    if (known) health.ready("issuer");
    else health.notReady("issuer", missing ?? "");
    if (known && missing !== undefined) health.warn("issuer", missing);
  };
  return { jwt, keys: new IssuerKeys(jwt, { ...options, onRead }) };
}

function openTracing(config: GatewayConfig): Promise<Tracing> {
  const attributes = { "k8s.namespace.name": config.namespace, "k8s.pod.name": config.podName, "enodia.deployment": config.deployment };
  return createTracing({ service: "gateway", endpoint: config.otlpEndpoint, ratio: config.traceRatio, attributes });
}

/** Ready = a membership is known, and some worker in it takes requests or requests are held until one does. */
class Readiness {
  readonly #pool: WorkerPool;
  readonly #health: Health;
  #readyUntil = 0;
  #textDigest: string | undefined;

  constructor(pool: WorkerPool, health: Health) {
    this.#pool = pool;
    this.#health = health;
  }

  /** The tokenizer is there, made of files with this digest. */
  hasText(digest: string): void {
    this.#textDigest = digest;
    this.#health.ready("text");
  }

  apply(membership: Membership, log: Log): void {
    this.#compareText(membership);
    const wasReady = this.#pool.serves;
    if (!this.#pool.apply(membership)) return;
    const { serves } = this.#pool;
    const holdMs = this.#pool.holdMs();
    if (serves || holdMs > 0) this.#health.ready("workers");
    else this.#health.notReady("workers", `none of ${membership.members.length} workers is ready`);
    if (wasReady && !serves) this.#readyUntil = performance.now() + unreadyGraceMs;
    const members = membership.members.map(({ rank, state }) => `${rank}:${state}`).join(" ");
    log.info({ version: membership.version, members, ...(holdMs > 0 ? { holdMs } : {}) }, "membership");
  }

  /** Ranks may have been started anew with other files in the same place; this process goes on with its own. */
  #compareText({ members }: Membership): void {
    const { digest } = textSources(members);
    if (this.#textDigest === undefined || digest === undefined) return;
    if (digest === this.#textDigest) this.#health.ready("text");
    else this.#health.warn("text", "most ranks have another tokenizer or chat template than this gateway; restart the gateways");
  }

  /** A worker lost a moment ago is being replaced: new requests wait for it like the running ones. So do those that are held. */
  unavailable(): string | undefined {
    if (this.#pool.serves || this.#pool.holdMs() > 0 || performance.now() < this.#readyUntil) return undefined;
    return this.#health.reasons().find((reason) => reason.startsWith("workers:")) ?? "none is ready";
  }
}

function loadOf(model: string, { inside, waiting }: Admission, pool: WorkerPool): PoolLoad {
  return { model, waiting, running: inside - waiting, kvUse: pool.kvUse() };
}

function awayReports(metrics: Metrics<"gateway">, log: Log) {
  return {
    onAway: (rank: number, error: AppError) => {
      metrics.add("enodia_gateway_suspicions_total", 1, { reason: error.code === "Silent" ? "silent" : "lost" });
      log.warn({ rank, reason: error.message }, "worker is away; its requests go on elsewhere");
    },
    onOtherClass: (rank: number, before: string, now: string) =>
      log.warn({ rank, before, now }, "a request goes on in another numerics class; its text may differ from here on"),
    onBack: (rank: number) => log.info({ rank }, "worker answers again"),
  };
}

function showWorkers(pool: WorkerPool, metrics: Metrics<"gateway">): void {
  for (const [state, count] of Object.entries(pool.countByState())) {
    metrics.set("enodia_gateway_workers", count, { state: state as MemberState });
  }
  if (pool.version >= 0) metrics.set("enodia_membership_version", pool.version);
}

/** Asks peers until somebody, operator or peer, has told a membership. Returns how to stop. */
function untilKnown(
  pool: WorkerPool,
  ask: () => Promise<Membership | undefined>,
  onMembership: (membership: Membership) => void,
): () => void {
  const round = async () => {
    if (pool.version >= 0) return clearInterval(timer);
    const membership = await ask();
    if (membership && membership.version > pool.version) onMembership(membership);
  };
  const timer = setInterval(() => void round(), askPeersEveryMs);
  void round();
  return () => clearInterval(timer);
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
