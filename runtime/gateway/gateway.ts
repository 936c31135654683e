// The gateway process: worker pool, Control server, tokenizer, HTTP API and health.
import { randomBytes, randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { gatewayRank } from "../../crds/common.ts";
import type { GatewaySettings } from "../../crds/process.ts";
import { refusalReport } from "../net/connections.ts";
import { createServer, grpcNetwork } from "../net/grpc.ts";
import type { Membership } from "../net/mapping.ts";
import { folderTls, type TlsSource } from "../net/tls.ts";
import { createHealth, type Health, serveHealth } from "../observe/health.ts";
import { createLog, type Log } from "../observe/log.ts";
import { createMetrics } from "../observe/runtime-metrics.ts";
import { steadyClock } from "../observe/steady-clock.ts";
import { createTracing, type Tracing } from "../observe/trace.ts";
import type { TextModel } from "../text/text-model.ts";
import { createApp } from "./api/app.ts";
import { Bodies } from "./api/bodies.ts";
import { listenHttp } from "./api/http-server.ts";
import { UnknownFields } from "./api/unknown-fields.ts";
import { Authenticator } from "./auth/authenticator.ts";
import { ClientLimits } from "./auth/client-limits.ts";
import type { IssuerLimits } from "./auth/issuer-keys.ts";
import { openText } from "./gateway-text.ts";
import { Admission } from "./routing/admission.ts";
import { joinMembers } from "./routing/members.ts";
import { type FailoverLimits, failoverLimits } from "./routing/patience.ts";
import type { WorkerPool } from "./routing/worker-pool.ts";

const queueRequestsMaxDefault = 512;
const requestTimeoutMs = 600_000;
/** kube-proxy needs about this long to remove the endpoint of a terminating pod. */
const stopListeningAfterMs = 3_000;

export interface GatewayConfig extends GatewaySettings {
  /** Address that its servers listen on; all by default. */
  readonly host?: string;
  readonly version: string;
}

/** Tests set these. */
export interface GatewayOverrides {
  readonly tls?: TlsSource;
  readonly textModel?: TextModel;
  readonly limits?: FailoverLimits;
  readonly issuerLimits?: IssuerLimits;
  readonly log?: Log;
  readonly tracing?: Tracing;
  readonly drawSeed?: () => bigint;
  /** Replaces the headless Service. */
  readonly peers?: () => Promise<string[]>;
}

export interface Gateway {
  readonly httpPort: number;
  readonly grpcPort: number;
  readonly metricsPort: number;
  readonly probePort: number;
  readonly pool: WorkerPool;
  readonly health: Health;
  apply(membership: Membership): void;
  /** Lets running requests end for up to graceMs, then cuts them. */
  close(graceMs: number): Promise<void>;
}

export async function startGateway(config: GatewayConfig, overrides: GatewayOverrides = {}): Promise<Gateway> {
  await using opened = new AsyncDisposableStack(); // closed in reverse when the start fails; else by close()
  const { namespace, deployment, podName, host = "0.0.0.0" } = config;
  const log = overrides.log ?? createLog({ level: config.logLevel, name: "gateway", fields: { namespace, deployment, pod: podName } });
  const metrics = createMetrics({
    process: "gateway",
    version: config.version,
    constants: { namespace, deployment },
    vllmModel: config.servedName,
  });
  opened.defer(() => metrics.close());
  const health = createHealth({ workers: "no membership known yet", start: "starting" });
  const healthServer = await serveHealth({ health, metrics, probePort: config.probePort, metricsPort: config.metricsPort, host, log });
  opened.defer(() => healthServer.close());
  const tracing = overrides.tracing ?? (await openTracing(config));
  opened.defer(() => tracing.close());
  const { apiKeyFile, jwt } = config;
  const authenticator = await Authenticator.open({ apiKeyFile, jwt, limits: overrides.issuerLimits, health, log });
  opened.defer(() => authenticator.close());
  const tls = overrides.tls ?? folderTls(config.tlsDir);
  opened.defer(() => tls.close());
  const requestsMax = config.queueRequestsMax ?? queueRequestsMaxDefault;
  const admission = new Admission(requestsMax, metrics);
  const identity = { deploymentUid: config.deploymentUid, rank: gatewayRank, podUid: config.podUid, bootId: randomUUID() };
  const wire = { tls, network: grpcNetwork, server: createServer(tls, refusalReport("control", { log, metrics })) };
  // The membership comes first, since its ranks have the tokenizer.
  const { peers } = overrides;
  const members = await joinMembers({ config, identity, host, log, metrics, health, tracing, ...wire, admission, peers }, opened);
  const { pool, readiness, grpcPort } = members;
  const text = await openText({ config, textModel: overrides.textModel, identity, health, log, ...wire, pool, readiness }, opened);
  members.canAnswer();

  const app = createApp({
    ...text,
    workers: pool,
    metrics,
    log,
    tracing,
    admission,
    bodies: new Bodies(),
    authenticator,
    corsOrigins: config.corsOrigins ?? [],
    clients: new ClientLimits(config.clients ?? [], () => performance.now()), // limits per minute must not depend on clock changes
    prefixIsolation: config.prefixIsolation ?? false,
    unknownFields: new UnknownFields(config.unknownFields ?? "Ignore", log, metrics),
    requestTimeoutMs,
    servedName: config.servedName,
    version: config.version,
    load: () => ({ model: config.servedName, ...admission.load(), kvUse: pool.kvUse() }),
    created: Math.floor(Date.now() / 1000),
    limits: overrides.limits ?? failoverLimits,
    drawSeed: overrides.drawSeed ?? (() => randomBytes(8).readBigUInt64LE()),
    now: steadyClock(),
    fingerprint: () => members.fingerprint(),
    unavailable: () => readiness.unavailable(),
    holds: () => pool.holdMs() > 0,
  });
  const http = await listenHttp({ fetch: app.fetch, host, port: config.httpPort, tlsDir: config.httpTlsDir, requestsMax, metrics, log });
  opened.defer(() => http.close(0));
  health.ready("start");
  log.info({ httpPort: http.port, grpcPort, model: config.servedName }, "gateway listens");

  const running = opened.move();
  const close = async (graceMs: number) => {
    members.drain();
    health.notReady("start", "stopping");
    http.drain();
    await sleep(Math.min(stopListeningAfterMs, graceMs));
    await http.close(graceMs);
    await running.disposeAsync();
  };
  const { probePort, metricsPort } = healthServer;
  return { httpPort: http.port, grpcPort, metricsPort, probePort, pool, health, apply: (membership) => readiness.apply(membership), close };
}

function openTracing(config: GatewayConfig): Promise<Tracing> {
  const attributes = { "k8s.namespace.name": config.namespace, "k8s.pod.name": config.podName, "enodia.deployment": config.deployment };
  return createTracing({ service: "gateway", endpoint: config.otlpEndpoint, ratio: config.traceRatio, attributes });
}
